"""Writes the result of a run: the model, its scores and pictures."""

import jax
import numpy as np

from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.config import StrongData, SyntheticData
from ast_jax.data.synthetic import write_unseen
from ast_jax.evaluation.event_report import event_results, events_json, write_event_results
from ast_jax.evaluation.metrics import Metrics
from ast_jax.runs.history import History, describe_metrics, kept_epochs
from ast_jax.runs.plots import draw_class_precisions
from ast_jax.runs.results import write_run_results
from ast_jax.training.held_out import predict_clips, score
from ast_jax.training.setup import Run
from ast_jax.training.step import Params
from ast_jax.urls import is_remote


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
    first = jax.process_index() == 0
    parts = [("", "held out", run.data.evaluation, logits)]
    if run.data.test is not None:
        parts.append(("test", "test", run.data.test, None))
    kept = kept_epochs(run.config, history)
    assert kept is not None  # a run ends with an evaluation
    lines = []
    for folder, name, clips, known_logits in parts:
        logits = predict_clips(run, params, clips) if known_logits is None else known_logits
        metrics = score(run, logits, clips)
        if first:
            target, labels = run.workdir / folder, run.data.labels
            row = metrics._asdict()
            if clips.strong is not None:
                results = event_results(logits, clips)
                row = events_json(labels, metrics, results, kept.to_dict())
                write_event_results(target, labels, row, results)
                draw_class_precisions(
                    results.per_class.average_precision, labels, target / "per_class_ap.png"
                )
            else:
                problem_type = run.initial.config.problem_type
                write_run_results(target, labels, metrics, logits, clips, problem_type, kept)
            lines.append(f"{name}, {kept}: {describe_metrics(row)}")
    if first:
        if not (run.workdir / "model").exists():
            params = jax.tree.map(np.asarray, params)
            model = Checkpoint(run.initial.config, run.initial.feature_extractor, params)
            save_checkpoint(run.workdir / "model", model)
        print_next_command(run)
        for line in lines:
            run.console.print(line)
    return metrics


def print_next_command(run: Run) -> None:
    """Prints where the results are and the command that uses the model."""
    workdir = run.config.workdir
    sounds = "FILE..."
    if isinstance(run.config.data, SyntheticData):
        write_unseen(run.workdir / "unseen", run.config.seed)
        sounds = f"{run.workdir if is_remote(workdir) else workdir}/unseen/*.wav"
    tables = "predictions.csv, worst.csv"
    if isinstance(run.config.data, StrongData):
        tables = "events.csv"
    run.console.print(f"results.json, {tables}, pictures and checkpoints are in {workdir}")
    run.console.print(f"to use it: ast-jax classify {sounds} --checkpoint {workdir}")
