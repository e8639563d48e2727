"""How good predictions are."""

from typing import NamedTuple

import numpy as np


class Scores(NamedTuple):
    """Metrics of an evaluation.

    Attributes:
        loss: the training criterion on the held-out clips.
        accuracy: share of clips whose highest logit is their class.
        mean_average_precision: mean over classes of the area under precision and recall.
        classes_without_clips: classes that no clip has, left out of the mean.
    """

    loss: float
    accuracy: float
    mean_average_precision: float
    classes_without_clips: int


def accuracy(scores: np.ndarray, targets: np.ndarray) -> float:
    """Share of (clips, classes) rows whose highest score is at the target's highest."""
    return float((scores.argmax(axis=1) == targets.argmax(axis=1)).mean())


def average_precisions(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """scikit-learn's average precision by class, (classes,); NaN for a class without clips."""
    from sklearn.metrics import average_precision_score

    result = np.full(targets.shape[1], np.nan)
    for i in np.flatnonzero(targets.any(axis=0)):
        result[i] = average_precision_score(targets[:, i] > 0, scores[:, i])
    return result


def confusion_matrix(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """int64 (classes, classes): how many clips of a row's class were taken for a column's."""
    classes = targets.shape[1]
    pairs = targets.argmax(axis=1) * classes + scores.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def evaluate_scores(logits: np.ndarray, targets: np.ndarray, loss: float) -> Scores:
    """All metrics of (clips, classes) logits."""
    precisions = average_precisions(logits, targets)
    return Scores(
        loss,
        accuracy(logits, targets),
        float(np.nanmean(precisions)),
        int(np.isnan(precisions).sum()),
    )
