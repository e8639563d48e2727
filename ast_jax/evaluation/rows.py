"""Metrics and predictions as rows of tables and files."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ast_jax.evaluation.metrics import ClassificationMetrics, ClassMetrics
from ast_jax.losses import criterion_of, probabilities


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
    return to_rows(columns)


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
    criterion = criterion_of(problem_type)
    losses = jax.vmap(lambda x, target: criterion(x[None], target[None]))(
        jnp.asarray(logits), jnp.asarray(targets)
    )
    rows = prediction_rows(names, labels, probabilities(problem_type, logits), targets)
    for row, loss in zip(rows, np.asarray(losses), strict=True):
        row["loss"] = round(float(loss), 6)
    return rows


def to_rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Returns columns of one length as rows, with None in place of NaN and infinities."""
    return [
        finite_or_none(dict(zip(columns, values, strict=True)))
        for values in zip(*columns.values(), strict=True)
    ]


def finite_or_none(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row with None in place of NaN and infinities, which JSON lacks."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def format_number(value: float | None, spec: str) -> str:
    """Returns a formatted number, or a dash for None."""
    return "–" if value is None else format(value, spec)
