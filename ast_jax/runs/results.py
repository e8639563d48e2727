"""The files of one evaluation in a run's folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ast_jax.data.clips import Clips
from ast_jax.evaluation.metrics import (
    Metrics,
    classification_metrics,
    confusion_matrix,
    per_class_metrics,
    predicted_classes,
    ranking_scores,
)
from ast_jax.evaluation.rows import class_rows, finite_or_none, held_out_rows
from ast_jax.io import write_csv, write_json
from ast_jax.runs.history import KeptEpochs
from ast_jax.runs.plots import draw_class_precisions, draw_confusion

WORST = 20  # clips in `worst.csv`


def write_run_results(
    folder: Path,
    labels: Sequence[str],
    metrics: Metrics,
    logits: np.ndarray,
    clips: Clips,
    problem_type: str,
    kept: KeptEpochs,
) -> None:
    """Writes the results of an evaluation to a folder, which is created if missing.

    - `results.json`: the epoch, the metrics, and those of each class.
    - `per_class.csv`: those of each class. Precision, recall and F1 are of the class with the
      highest score, or of all classes with a score of 0.5 or more if clips may have several.
    - `predictions.csv`: the rows of `held_out_rows`.
    - `worst.csv`: those of the clips with the highest loss, highest first.
    - `per_class_ap.png`, and `confusion.png` if every clip has one class.

    Args:
        folder: to write to.
        labels: class names.
        metrics: of the whole evaluation.
        logits: (clips, classes).
        clips: the clips.
        problem_type: of the model.
        kept: the epochs of the parameters.
    """
    folder.mkdir(exist_ok=True)
    targets = clips.all_targets()
    by_class = per_class_metrics(ranking_scores(problem_type, logits), targets)
    decisions = classification_metrics(predicted_classes(problem_type, logits), targets)
    rows = class_rows(labels, by_class, decisions)
    content = kept.to_dict() | metrics._asdict() | {"classes": rows}
    write_json(folder / "results.json", finite_or_none(content))
    write_csv(folder / "per_class.csv", rows)
    predictions = held_out_rows(clips.names, labels, logits, targets, problem_type)
    write_csv(folder / "predictions.csv", predictions)
    by_loss = sorted(predictions, key=lambda row: row["loss"], reverse=True)
    write_csv(folder / "worst.csv", by_loss[:WORST])
    draw_class_precisions(by_class.average_precision, labels, folder / "per_class_ap.png")
    if ((targets > 0).sum(axis=1) == 1).all():
        matrix = confusion_matrix(logits, targets)
        title = f"{len(targets)} clips, {kept}: accuracy {metrics.accuracy:.1%}"
        draw_confusion(matrix, labels, folder / "confusion.png", title)
