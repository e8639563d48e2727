"""How good predictions are.

The areas are scikit-learn's, calculated from the ranks of the positives alone: one sort of a
class's scores serves both.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from ast_jax.errors import InputError

CLASSES_AT_A_TIME = 16  # copied by each thread: enough to read whole cache lines of the scores


class Metrics(NamedTuple):
    """Metrics of an evaluation, every one of them valid JSON.

    Attributes:
        loss: the training criterion on the held-out clips.
        accuracy: share of clips whose highest logit is their class.
        mean_average_precision: mean over classes of the area under precision and recall, None
            where no class has clips.
        mean_auc: mean over classes of the area under the ROC curve, None where none has one.
        d_prime: of the mean AUC, None where that is None, 0 or 1 (d′ would be infinite).
        classes_without_clips: classes that no clip has, left out of the mean precision.
        classes_without_auc: classes that no clip or every clip has, left out of the mean AUC.
    """

    loss: float
    accuracy: float
    mean_average_precision: float | None
    mean_auc: float | None
    d_prime: float | None
    classes_without_clips: int
    classes_without_auc: int


class ClassMetrics(NamedTuple):
    """Metrics by class, each (classes,).

    Attributes:
        clips: int64, how many clips have the class.
        average_precision: float64; NaN for a class without clips.
        auc: float64; NaN for a class that no clip or every clip has.
    """

    clips: np.ndarray
    average_precision: np.ndarray
    auc: np.ndarray


def accuracy(scores: np.ndarray, targets: np.ndarray) -> float:
    """Share of (clips, classes) rows whose highest score is at the target's highest."""
    return float((scores.argmax(axis=1) == targets.argmax(axis=1)).mean())


def per_class_metrics(scores: np.ndarray, targets: np.ndarray) -> ClassMetrics:
    """Average precision and area under the ROC curve of each class, as scikit-learn's.

    Args:
        scores: (clips, classes), of any scale: only their order within a class counts.
        targets: (clips, classes); a clip has the classes where this is above 0.

    Raises:
        InputError: a score is not a finite number; the message names the clip's row.
    """
    unfit = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if unfit.size:
        raise InputError(
            f"scores of {unfit.size} clips are not finite, row {unfit[0]} the first; check the "
            f"model that made them"
        )

    def score_some(start: int) -> list[tuple[int, float, float]]:
        some = slice(start, start + CLASSES_AT_A_TIME)
        columns = np.ascontiguousarray(scores[:, some].T)
        return [
            _score_class(column, has_class)
            for column, has_class in zip(columns, targets[:, some].T > 0, strict=True)
        ]

    with ThreadPoolExecutor() as threads:  # NumPy sorts without holding the interpreter's lock
        parts = threads.map(score_some, range(0, scores.shape[1], CLASSES_AT_A_TIME))
        rows = [row for part in parts for row in part]
    clips, precisions, areas = zip(*rows, strict=True)
    return ClassMetrics(np.array(clips), np.array(precisions), np.array(areas))


def average_precisions(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """scikit-learn's average precision by class, (classes,); NaN for a class without clips."""
    return per_class_metrics(scores, targets).average_precision


def d_prime(auc: float) -> float:
    """√2·Φ⁻¹(auc): how many deviations apart two normal distributions of this AUC lie."""
    return math.sqrt(2) * float(ndtri(auc))


def confusion_matrix(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """int64 (classes, classes): how many clips of a row's class were taken for a column's."""
    classes = targets.shape[1]
    pairs = targets.argmax(axis=1) * classes + scores.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def compute_metrics(
    logits: np.ndarray, targets: np.ndarray, loss: float, classes: ClassMetrics | None = None
) -> Metrics:
    """All metrics of (clips, classes) logits; `classes` are their `per_class_metrics`, if known.

    Raises:
        InputError: a logit is not a finite number; the message names the clip's row.
    """
    classes = per_class_metrics(logits, targets) if classes is None else classes
    mean_auc = _mean(classes.auc)
    distance = math.inf if mean_auc is None else d_prime(mean_auc)
    return Metrics(
        loss=loss,
        accuracy=accuracy(logits, targets),
        mean_average_precision=_mean(classes.average_precision),
        mean_auc=mean_auc,
        d_prime=distance if math.isfinite(distance) else None,
        classes_without_clips=int(np.isnan(classes.average_precision).sum()),
        classes_without_auc=int(np.isnan(classes.auc).sum()),
    )


def _score_class(scores: np.ndarray, has_class: np.ndarray) -> tuple[int, float, float]:
    """Positives, average precision and AUC of (clips,) scores."""
    ranked = np.sort(scores)
    hits = np.sort(scores[has_class])
    clips, others = len(hits), len(scores) - len(hits)
    # Of all clips and of the positives: how many score below each positive, and at most as high.
    below, up_to = (np.searchsorted(ranked, hits, side) for side in ("left", "right"))
    hits_below, hits_up_to = (np.searchsorted(hits, hits, side) for side in ("left", "right"))
    precisions = (clips - hits_below) / (len(scores) - below)
    # Pairs of a positive and a negative in the right order, counted twice, and ties once.
    won = (below - hits_below + up_to - hits_up_to).sum()
    return (
        clips,
        float(precisions.mean()) if clips else math.nan,
        float(won / (2 * clips * others)) if clips and others else math.nan,
    )


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
