"""The files of one evaluation in a run's folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ast_jax.evaluation.metrics import Metrics, confusion_matrix, per_class_metrics
from ast_jax.evaluation.report import class_rows, finite_or_none
from ast_jax.io import write_csv, write_json
from ast_jax.runs.plots import draw_class_precisions, draw_confusion


def write_run_results(
    folder: Path,
    labels: Sequence[str],
    metrics: Metrics,
    logits: np.ndarray,
    targets: np.ndarray,
) -> None:
    """Writes `results.json` and `per_class.csv`, and draws `per_class_ap.png`.

    Args:
        folder: created if missing.
        labels: class names.
        metrics: of the whole evaluation.
        logits: (clips, classes), from which `metrics` was computed.
        targets: (clips, classes). If every clip has one class, `confusion.png` is drawn too.
    """
    folder.mkdir(exist_ok=True)
    by_class = per_class_metrics(logits, targets)
    rows = class_rows(labels, by_class)
    write_json(folder / "results.json", finite_or_none(metrics._asdict()) | {"classes": rows})
    write_csv(folder / "per_class.csv", rows)
    draw_class_precisions(by_class.average_precision, labels, folder / "per_class_ap.png")
    if ((targets > 0).sum(axis=1) == 1).all():
        draw_confusion(confusion_matrix(logits, targets), labels, folder / "confusion.png")
