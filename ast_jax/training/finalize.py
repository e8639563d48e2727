"""What a run leaves when it is finished."""

import jax
import numpy as np

from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.data.clips import Clips
from ast_jax.data.synthetic import write_unseen
from ast_jax.evaluation.metrics import Metrics
from ast_jax.evaluation.predict import predict_all, score
from ast_jax.training import report, step
from ast_jax.training.setup import Run


def finish(
    run: Run, params: step.Params, history: report.History, logits: np.ndarray | None
) -> Metrics:
    """Metrics the result, writes it and what a person wants to see, and says where.

    Args:
        run: all that stayed the same.
        params: the result.
        history: a row for each evaluation.
        logits: of the clips held out under `params`, if they are known.

    Returns:
        The metrics of the clips held out, or of the test's where there is one.
    """
    held_out, test = run.data.evaluation, run.data.test
    if logits is None:
        logits = predict_all(run, params, held_out)
    scores = score(run, logits, held_out)
    test_logits = None if test is None else predict_all(run, params, test)
    if jax.process_index() == 0:
        write_evaluation(run, "", scores, logits, held_out)
        if not (run.workdir / "model").exists():
            result = Checkpoint(
                run.start.config, run.start.feature_extractor, jax.tree.map(np.asarray, params)
            )
            save_checkpoint(run.workdir / "model", result)
        report.print_table(run.console, history)
        say(run, "the result, held out", scores)
    if test is not None and test_logits is not None:
        scores = score(run, test_logits, test)
        if jax.process_index() == 0:
            write_evaluation(run, "test", scores, test_logits, test)
            say(run, "the result, test", scores)
    if jax.process_index() == 0:
        say_where(run)
    return scores


def write_evaluation(
    run: Run, folder: str, scores: Metrics, logits: np.ndarray, clips: Clips
) -> None:
    """Writes an evaluation's files to a folder of the run's."""
    place = run.workdir / folder
    place.mkdir(exist_ok=True)
    targets = clips.all_targets()
    one_each = bool(((targets > 0).sum(axis=1) == 1).all())
    report.write_evaluation(place, run.data.labels, scores, logits, targets, confusion=one_each)


def say(run: Run, what: str, scores: Metrics) -> None:
    """Prints an evaluation in one line."""
    run.console.print(f"{what}: {report.describe_scores(scores._asdict())}")


def say_where(run: Run) -> None:
    """Prints where the results are and how to use them."""
    workdir = run.config.workdir
    sounds = "FILE..."
    if run.config.data.kind == "synthetic":
        write_unseen(run.workdir / "unseen", run.config.seed)
        sounds = f"{workdir}/unseen/*.wav"
    run.console.print(f"results.json, per_class.csv, pictures and checkpoints are in {workdir}")
    run.console.print(f"to use it: ast-jax classify {sounds} --checkpoint {workdir}")
