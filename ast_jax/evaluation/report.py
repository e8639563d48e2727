"""Metrics as tables, JSON and files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from ast_jax.evaluation.checkpoints import Evaluation, Results
from ast_jax.evaluation.rows import class_rows, format_number, prediction_rows
from ast_jax.evaluation.tuning import Tuned
from ast_jax.evaluation.tuning_report import draw_reliability, threshold_rows, tuning_json
from ast_jax.io import atomic_write, write_csv


def results_table(results: Results) -> Table:
    """Returns a table with a row per checkpoint and one for the ensemble."""
    data = results.data
    about = f"{data.folder}, {data.split}: {len(data.clips.waveforms)} clips"
    table = Table(title=Text(about))
    table.add_column("checkpoint", overflow="fold")
    for column in ("mAP", "mAUC", "d'", "accuracy", "loss"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, evaluation in _rows(results):
        metrics = evaluation.metrics
        table.add_row(
            Text(name),
            format_number(metrics.mean_average_precision, ".4f"),
            format_number(metrics.mean_auc, ".4f"),
            "∞" if metrics.mean_auc == 1 else format_number(metrics.d_prime, ".3f"),
            format_number(metrics.accuracy, ".2%"),
            format_number(metrics.loss, ".4f"),
        )
    return table


def results_json(results: Results, tuned: Tuned | None = None) -> dict[str, Any]:
    """Returns the set and the metrics of every checkpoint and the ensemble, for JSON.

    With `tuned` it also has `thresholds`, see `tuning_json`.
    """
    data, ensemble = results.data, results.ensemble
    content = {
        "data": data.folder,
        "split": data.split,
        "clips": len(data.clips.waveforms),
        "classes": len(data.labels),
        "checkpoints": [
            {"checkpoint": path, **evaluation.metrics._asdict()}
            for path, evaluation in results.evaluations.items()
        ],
        "ensemble": ensemble.metrics._asdict() if ensemble else None,
    }
    return content | ({"thresholds": tuning_json(results, tuned)} if tuned else {})


def write_results(folder: str | Path, results: Results, tuned: Tuned | None = None) -> None:
    """Writes a folder of four files atomically, with `tuned` of six.

    `results.json` is that of `results_json`. `per_class.csv` has a row per class: the number of
    clips, and the average precision of each checkpoint and of the ensemble, empty where the class
    has no clips. `predictions.csv` has the rows of `prediction_rows`, for the ensemble if there are
    several checkpoints. `predictions.npz` holds `ids` and `targets` (clips, classes) of the clips,
    `labels`, `checkpoints` and `probabilities`, float32 (checkpoints, clips, classes).
    `thresholds.csv` has the rows of `threshold_rows`, and `reliability.png` a reliability diagram.

    Raises:
        InputError: `folder` exists already or cannot be written.
    """
    data = results.data
    targets = data.clips.all_targets()
    counts = data.clips.class_counts().tolist()
    rows: list[dict[str, Any]] = [
        {"label": label, "clips": n} for label, n in zip(data.labels, counts, strict=True)
    ]
    for name, evaluation in _rows(results):
        for row, own in zip(rows, class_rows(data.labels, evaluation.per_class), strict=True):
            row[f"AP {name}"] = own["AP"]
    evaluations = results.evaluations
    with atomic_write(Path(folder).absolute()) as temporary:
        temporary.mkdir()
        text = json.dumps(results_json(results, tuned), indent=2, allow_nan=False)
        (temporary / "results.json").write_text(text + "\n", encoding="utf-8")
        write_csv(temporary / "per_class.csv", rows)
        _, final = _rows(results)[-1]
        write_csv(
            temporary / "predictions.csv",
            prediction_rows(data.clips.names, data.labels, final.probabilities, targets),
        )
        np.savez(
            temporary / "predictions.npz",
            ids=np.array(data.clips.names),
            labels=np.array(data.labels),
            targets=targets.astype(np.uint8),
            checkpoints=np.array(list(evaluations)),
            probabilities=np.stack([one.probabilities for one in evaluations.values()]),
        )
        if tuned:
            write_csv(temporary / "thresholds.csv", threshold_rows(results, tuned))
            draw_reliability(results, tuned, temporary / "reliability.png")


def _rows(results: Results) -> list[tuple[str, Evaluation]]:
    """Returns (path, evaluation) of every checkpoint and of the ensemble."""
    rows = list(results.evaluations.items())
    return rows + ([("ensemble", results.ensemble)] if results.ensemble else [])
