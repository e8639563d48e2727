"""Metrics as tables, JSON and files."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table
from rich.text import Text

from ast_jax.evaluation.checkpoints import Evaluation, Results
from ast_jax.evaluation.metrics import ClassificationMetrics, ClassMetrics
from ast_jax.io import atomic_write, write_csv
from ast_jax.losses import LOSSES, probabilities


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


def results_json(results: Results) -> dict[str, Any]:
    """Returns the set and the metrics of every checkpoint and the ensemble, for JSON."""
    data, ensemble = results.data, results.ensemble
    return {
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


def write_results(folder: str | Path, results: Results) -> None:
    """Writes a folder of four files atomically.

    `results.json` is that of `results_json`. `per_class.csv` has a row per class: the number of
    clips, and the average precision of each checkpoint and of the ensemble, empty where the class
    has no clips. `predictions.csv` has the rows of `prediction_rows`, for the ensemble if there are
    several checkpoints. `predictions.npz` holds `ids` and `targets` (clips, classes) of the clips,
    `labels`, `checkpoints` and `probabilities`, float32 (checkpoints, clips, classes).

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
        text = json.dumps(results_json(results), indent=2, allow_nan=False)
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


def _rows(results: Results) -> list[tuple[str, Evaluation]]:
    """Returns (path, evaluation) of every checkpoint and of the ensemble."""
    rows = list(results.evaluations.items())
    return rows + ([("ensemble", results.ensemble)] if results.ensemble else [])


def class_rows(
    labels: Sequence[str], per_class: ClassMetrics, decisions: ClassificationMetrics | None = None
) -> list[dict[str, Any]]:
    """Returns a row per class: `label`, `clips`, `AP` and `AUC`, None where they are undefined.

    With `decisions` it also has `precision`, `recall` and `F1`.
    """
    columns: dict[str, Sequence[Any]] = {
        "label": labels,
        "clips": per_class.clips.tolist(),
        "AP": per_class.average_precision.tolist(),
        "AUC": per_class.auc.tolist(),
    }
    if decisions is not None:
        columns |= {
            "precision": decisions.precision.tolist(),
            "recall": decisions.recall.tolist(),
            "F1": decisions.f1.tolist(),
        }
    return [
        finite_or_none(dict(zip(columns, values, strict=True)))
        for values in zip(*columns.values(), strict=True)
    ]


def prediction_rows(
    names: Sequence[str] | np.ndarray,
    labels: Sequence[str],
    scores: np.ndarray,
    targets: np.ndarray,
) -> list[dict[str, Any]]:
    """Returns a row per clip: `clip`, `true`, `predicted` and `score`, the predicted class's.

    Args:
        names: of the clips.
        labels: class names.
        scores: (clips, classes), probabilities; the predicted class has the highest.
        targets: (clips, classes); the classes of a clip that has several are joined by ';'.
    """
    best = scores.argmax(axis=1)
    return [
        {
            "clip": str(names[i]),
            "true": ";".join(labels[k] for k in np.flatnonzero(targets[i]).tolist()),
            "predicted": labels[int(k)],
            "score": round(float(scores[i, k]), 6),
        }
        for i, k in enumerate(best)
    ]


def held_out_rows(
    names: Sequence[str] | np.ndarray,
    labels: Sequence[str],
    logits: np.ndarray,
    targets: np.ndarray,
    problem_type: str,
) -> list[dict[str, Any]]:
    """Returns the rows of `prediction_rows` of (clips, classes) logits, each with its `loss`."""
    single = problem_type == "single_label_classification"
    criterion = LOSSES["cross_entropy" if single else "binary_cross_entropy"]
    losses = jax.vmap(lambda x, target: criterion(x[None], target[None]))(
        jnp.asarray(logits), jnp.asarray(targets)
    )
    rows = prediction_rows(names, labels, probabilities(problem_type, logits), targets)
    for row, loss in zip(rows, np.asarray(losses), strict=True):
        row["loss"] = round(float(loss), 6)
    return rows


def finite_or_none(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row with None in place of NaN and infinities, which JSON lacks."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def format_number(value: float | None, spec: str) -> str:
    """Returns a formatted number, or a dash for None."""
    return "–" if value is None else format(value, spec)
