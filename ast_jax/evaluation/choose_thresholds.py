"""Chooses decision thresholds from scores and targets."""

import numpy as np

from ast_jax.errors import InputError


def choose_thresholds(
    scores: np.ndarray, targets: np.ndarray, min_precision: float | None = None
) -> np.ndarray:
    """Chooses a threshold for each class; a clip is detected with a score of at least that.

    A threshold is in the middle between the lowest score that it detects and the highest that it
    does not, or 0 if it detects all. Where several have the best F1, it is the highest of them.

    Args:
        scores: (clips, classes), probabilities.
        targets: (clips, classes); positive where a clip has the class.
        min_precision: if given, the lowest threshold is chosen that detects clips with at least
            this precision, from over 0 to 1; otherwise that of the best F1.

    Returns:
        float64 (classes,); infinite for a class that no clip has, or of which no threshold has the
        precision.

    Raises:
        InputError: an argument has a wrong shape or is out of its range.
    """
    scores, targets = np.asarray(scores), np.asarray(targets)
    check_min_precision(min_precision)
    if scores.ndim != 2 or scores.shape != targets.shape or not len(scores):
        raise InputError(
            f"scores have the shape {scores.shape} and targets {targets.shape}; give the same, "
            f"(clips, classes)"
        )
    if not ((scores >= 0) & (scores <= 1)).all():  # NaN is neither
        raise InputError("scores are not all from 0 to 1; give probabilities")
    return np.array(
        [
            _choose_threshold(column, has_class, min_precision)
            for column, has_class in zip(scores.T, targets.T > 0, strict=True)
        ]
    )


def _choose_threshold(
    scores: np.ndarray, has_class: np.ndarray, min_precision: float | None
) -> float:
    """Returns the threshold of one class, see `choose_thresholds`."""
    if not has_class.any():
        return np.inf
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    # Equal scores are detected together: the last of each is where a threshold can be.
    last = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True))
    detected, hits = last + 1, np.cumsum(has_class[order])[last]
    if min_precision is None:
        best = int(np.argmax(2 * hits / (detected + has_class.sum())))
    else:
        reached = np.flatnonzero(hits / detected >= min_precision)
        if not reached.size:
            return np.inf
        best = int(reached[-1])
    lowest = ranked[last[best]]
    below = ranked[last[best] + 1] if best + 1 < len(last) else 0.0
    middle = (lowest + below) / 2
    return float(middle if middle > below else lowest)  # neighbors have no middle


def check_min_precision(value: float | None) -> None:
    """Raises InputError unless a precision is over 0 and at most 1, or None."""
    if value is not None and not 0 < value <= 1:  # NaN is not
        raise InputError(f"min_precision is {value}; it must be over 0 and at most 1")
