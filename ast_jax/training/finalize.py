"""Writes the result of a run: the model, its scores and pictures."""

import jax
import numpy as np

from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.data.clips import Clips
from ast_jax.data.synthetic import write_unseen
from ast_jax.evaluation.metrics import Metrics
from ast_jax.runs.history import History, describe_metrics, print_table
from ast_jax.runs.results import write_results
from ast_jax.training.held_out import predict_clips, score
from ast_jax.training.setup import Run
from ast_jax.training.step import Params


def finalize(run: Run, params: Params, history: History, logits: np.ndarray | None) -> Metrics:
    """Scores the final parameters, and writes them with what a person wants to see.

    Args:
        run: the run.
        params: the final parameters.
        history: a row per evaluation.
        logits: of the held-out clips under `params`, if known.

    Returns:
        The metrics of the test clips, or of the held-out clips where there are none.
    """
    held_out, test = run.data.evaluation, run.data.test
    if logits is None:
        logits = predict_clips(run, params, held_out)
    metrics = score(run, logits, held_out)
    test_logits = None if test is None else predict_clips(run, params, test)
    first = jax.process_index() == 0
    if first:
        write_evaluation(run, "", metrics, logits, held_out)
        if not (run.workdir / "model").exists():
            params = jax.tree.map(np.asarray, params)
            model = Checkpoint(run.start.config, run.start.feature_extractor, params)
            save_checkpoint(run.workdir / "model", model)
        print_table(run.console, history)
        run.console.print(f"the result, held out: {describe_metrics(metrics._asdict())}")
    if test is not None and test_logits is not None:
        metrics = score(run, test_logits, test)
        if first:
            write_evaluation(run, "test", metrics, test_logits, test)
            run.console.print(f"the result, test: {describe_metrics(metrics._asdict())}")
    if first:
        print_next_command(run)
    return metrics


def write_evaluation(
    run: Run, folder: str, metrics: Metrics, logits: np.ndarray, clips: Clips
) -> None:
    """Writes the files of an evaluation to a folder of the run."""
    place = run.workdir / folder
    place.mkdir(exist_ok=True)
    targets = clips.all_targets()
    single_label = bool(((targets > 0).sum(axis=1) == 1).all())
    write_results(place, run.data.labels, metrics, logits, targets, confusion=single_label)


def print_next_command(run: Run) -> None:
    """Prints where the results are and the command that uses the model."""
    workdir = run.config.workdir
    sounds = "FILE..."
    if run.config.data.kind == "synthetic":
        write_unseen(run.workdir / "unseen", run.config.seed)
        sounds = f"{workdir}/unseen/*.wav"
    run.console.print(f"results.json, per_class.csv, pictures and checkpoints are in {workdir}")
    run.console.print(f"to use it: ast-jax classify {sounds} --checkpoint {workdir}")
