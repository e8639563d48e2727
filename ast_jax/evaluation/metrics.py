"""Metrics of predictions.

Average precision and AUC equal scikit-learn's. Both follow from the ranks of the positives, so
that one sort per class serves both.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from ast_jax.errors import InputError
from ast_jax.losses import probabilities

CLASSES_AT_A_TIME = 16  # copied by each thread; a column of float32 uses whole cache lines


class Metrics(NamedTuple):
    """Metrics of an evaluation, all valid JSON.

    Attributes:
        loss: the training criterion on the held-out clips.
        accuracy: share of clips whose highest score is that of their class.
        mean_average_precision: mean over classes; None where no class has clips.
        mean_auc: mean area under the ROC curve over classes; None where no class has one.
        d_prime: of the mean AUC; None where that is None, 0 or 1 (d′ would be infinite).
        classes_without_clips: number of classes excluded from the mean precision.
        classes_without_auc: number of classes that no clip or every clip has, excluded from the
            mean AUC.
    """

    loss: float
    accuracy: float
    mean_average_precision: float | None
    mean_auc: float | None
    d_prime: float | None
    classes_without_clips: int
    classes_without_auc: int


class ClassMetrics(NamedTuple):
    """Per-class metrics, each (classes,).

    Attributes:
        clips: int64, number of clips of the class.
        average_precision: float64; NaN for a class without clips.
        auc: float64; NaN for a class that no clip or every clip has.
    """

    clips: np.ndarray
    average_precision: np.ndarray
    auc: np.ndarray


def ranking_scores(problem_type: str, logits: np.ndarray) -> np.ndarray:
    """Returns the scores (clips, classes) by which metrics rank the clips of each class.

    They are the probabilities for single-label problems: softmax ignores a constant that is added
    to all logits of a clip, so logits of different clips cannot be compared. Otherwise they are the
    logits, which the sigmoid keeps in order.
    """
    single = problem_type == "single_label_classification"
    return probabilities(problem_type, logits) if single else logits


def accuracy(scores: np.ndarray, targets: np.ndarray) -> float:
    """Returns the share of (clips, classes) rows whose highest score is at the highest target."""
    return float((scores.argmax(axis=1) == targets.argmax(axis=1)).mean())


def per_class_metrics(scores: np.ndarray, targets: np.ndarray) -> ClassMetrics:
    """Computes average precision and area under the ROC curve of each class, as scikit-learn.

    Args:
        scores: (clips, classes), of any scale: only the order within a class matters.
        targets: (clips, classes); positive where a clip has the class.

    Raises:
        InputError: a score is not a finite number; the message names the clip's row.
    """
    nonfinite = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if nonfinite.size:
        raise InputError(
            f"scores of {nonfinite.size} clips are not finite, row {nonfinite[0]} the first; check "
            f"the model that made them"
        )

    def score_some(start: int) -> list[tuple[int, float, float]]:
        some = slice(start, start + CLASSES_AT_A_TIME)
        columns = np.ascontiguousarray(scores[:, some].T)
        return [
            _score_class(column, has_class)
            for column, has_class in zip(columns, targets[:, some].T > 0, strict=True)
        ]

    with ThreadPoolExecutor() as threads:  # NumPy releases the GIL while sorting
        parts = threads.map(score_some, range(0, scores.shape[1], CLASSES_AT_A_TIME))
        rows = [row for part in parts for row in part]
    clips, precisions, areas = zip(*rows, strict=True)
    return ClassMetrics(np.array(clips), np.array(precisions), np.array(areas))


class ClassificationMetrics(NamedTuple):
    """Metrics of decisions by class, each float64 (classes,).

    Attributes:
        precision: share of the clips predicted to have the class that have it; NaN for none.
        recall: share of the class's clips that are predicted to have it; NaN for none.
        f1: harmonic mean of both; NaN for a class that is neither true nor predicted.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def predicted_classes(problem_type: str, logits: np.ndarray) -> np.ndarray:
    """Returns the decisions, bool (clips, classes).

    For single-label problems it is the class with the highest logit, otherwise all classes with a
    probability of 0.5 or more.
    """
    if problem_type == "single_label_classification":
        return logits.argmax(axis=1)[:, None] == np.arange(logits.shape[1])
    return logits >= 0


def classification_metrics(predicted: np.ndarray, targets: np.ndarray) -> ClassificationMetrics:
    """Computes precision, recall and F1 of each class, as scikit-learn.

    Args:
        predicted: bool (clips, classes).
        targets: (clips, classes); positive where a clip has the class.
    """
    actual = targets > 0
    hits = (predicted & actual).sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        return ClassificationMetrics(
            hits / predicted.sum(axis=0),
            hits / actual.sum(axis=0),
            2 * hits / (predicted.sum(axis=0) + actual.sum(axis=0)),
        )


class AverageMetrics(NamedTuple):
    """Metrics of decisions over all classes; None where a ratio is 0 / 0.

    Micro averages count all decisions alike. Macro averages are means over the classes that have
    clips; there the precision of a class that is never predicted counts as 0.
    """

    micro_precision: float | None
    micro_recall: float | None
    micro_f1: float | None
    macro_precision: float | None
    macro_recall: float | None
    macro_f1: float | None


def average_metrics(predicted: np.ndarray, targets: np.ndarray) -> AverageMetrics:
    """Averages the metrics of decisions over classes; arguments are `classification_metrics`'."""
    # All decisions are those of one class to the micro averages.
    micro = classification_metrics(predicted.reshape(-1, 1), targets.reshape(-1, 1))
    some = (targets > 0).any(axis=0)
    macro = classification_metrics(predicted[:, some], targets[:, some])
    macro = macro._replace(precision=np.nan_to_num(macro.precision))
    return AverageMetrics(*map(_mean, (*micro, *macro)))


def d_prime(auc: float) -> float:
    """Returns √2·Φ⁻¹(auc): the distance of two normal distributions with this AUC."""
    return math.sqrt(2) * float(ndtri(auc))


def confusion_matrix(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns int64 (classes, classes): clips by true class (row) and predicted class (column)."""
    classes = targets.shape[1]
    pairs = targets.argmax(axis=1) * classes + scores.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def compute_metrics(
    scores: np.ndarray, targets: np.ndarray, loss: float, classes: ClassMetrics | None = None
) -> Metrics:
    """Computes all metrics of (clips, classes) scores; `classes`: their per-class metrics if known.

    Raises:
        InputError: a score is not a finite number; the message names the clip's row.
    """
    classes = per_class_metrics(scores, targets) if classes is None else classes
    mean_auc = _mean(classes.auc)
    distance = math.inf if mean_auc is None else d_prime(mean_auc)
    return Metrics(
        loss=loss,
        accuracy=accuracy(scores, targets),
        mean_average_precision=_mean(classes.average_precision),
        mean_auc=mean_auc,
        d_prime=distance if math.isfinite(distance) else None,
        classes_without_clips=int(np.isnan(classes.average_precision).sum()),
        classes_without_auc=int(np.isnan(classes.auc).sum()),
    )


def _score_class(scores: np.ndarray, has_class: np.ndarray) -> tuple[int, float, float]:
    """Returns positives, average precision and AUC of (clips,) scores."""
    ranked = np.sort(scores)
    hits = np.sort(scores[has_class])
    clips, others = len(hits), len(scores) - len(hits)
    # Number of clips, and of positives, that score below each positive and at most as high.
    below, up_to = (np.searchsorted(ranked, hits, side) for side in ("left", "right"))
    hits_below, hits_up_to = (np.searchsorted(hits, hits, side) for side in ("left", "right"))
    precisions = (clips - hits_below) / (len(scores) - below)
    # Correctly ordered pairs of a positive and a negative count twice, ties once.
    ordered = (below - hits_below + up_to - hits_up_to).sum()
    return (
        clips,
        float(precisions.mean()) if clips else math.nan,
        float(ordered / (2 * clips * others)) if clips and others else math.nan,
    )


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
