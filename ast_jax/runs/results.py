"""The files of one evaluation in a run's folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ast_jax.evaluation.metrics import Metrics, confusion_matrix, per_class_metrics
from ast_jax.evaluation.report import class_rows, finite_or_none
from ast_jax.io import write_csv, write_json
from ast_jax.runs.plots import draw_class_precisions, draw_confusion


def write_results(
    folder: Path,
    labels: Sequence[str],
    metrics: Metrics,
    logits: np.ndarray,
    targets: np.ndarray,
    *,
    confusion: bool,
) -> None:
    """Writes `results.json` and `per_class.csv`, and draws `per_class_ap.png`.

    Args:
        folder: an existing folder.
        labels: class names.
        metrics: of the whole evaluation.
        logits: (clips, classes), from which `metrics` was computed.
        targets: (clips, classes).
        confusion: also draw `confusion.png`, which needs one class per clip.
    """
    by_class = per_class_metrics(logits, targets)
    rows = class_rows(labels, by_class)
    write_json(folder / "results.json", finite_or_none(metrics._asdict()) | {"classes": rows})
    write_csv(folder / "per_class.csv", rows)
    draw_class_precisions(by_class.average_precision, labels, folder / "per_class_ap.png")
    if confusion:
        draw_confusion(confusion_matrix(logits, targets), labels, folder / "confusion.png")
