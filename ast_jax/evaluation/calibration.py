"""Fits the calibration of a model's probabilities, and measures how far it is from calibrated."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import expit, logit, softmax

from ast_jax.errors import InputError
from ast_jax.thresholds import Calibration

BINS = 15  # of Guo et al. 2017


def fit_temperature(problem_type: str, logits: np.ndarray, targets: np.ndarray) -> Calibration:
    """Fits temperature scaling (Guo et al. 2017): all logits are divided by one number T.

    T minimizes the training criterion: the cross-entropy of the softmax for single-label problems,
    else that of the sigmoid over all clips and classes.

    Args:
        problem_type: of the model.
        logits: (clips, classes).
        targets: (clips, classes).

    Raises:
        InputError: the criterion has no minimum, as all clips are classified correctly, or no
            better than by chance.
    """
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    if problem_type == "single_label_classification":
        shifted = logits - logits.max(axis=1, keepdims=True)

        def slope(scale: float) -> float:
            """Returns the derivative of the criterion by the scale 1/T, which grows with it."""
            mean = (softmax(scale * shifted, axis=1) * shifted).sum(axis=1, keepdims=True)
            return float((targets * (mean - shifted)).sum())
    else:

        def slope(scale: float) -> float:
            return float(((expit(scale * logits) - targets) * logits).sum())

    if slope(0) >= 0:
        raise InputError(
            "a temperature cannot be fitted, as the logits separate the classes no better than "
            "chance; use another checkpoint, or no calibration"
        )
    high = next((scale for scale in 2.0 ** np.arange(20) if slope(scale) > 0), None)
    if high is None:
        raise InputError(
            "a temperature cannot be fitted, as every clip is classified correctly and the loss "
            "falls the lower it is; use more clips, or no calibration"
        )
    return Calibration(brentq(slope, 0, high), 0.0)


def fit_platt(logits: np.ndarray, targets: np.ndarray) -> Calibration:
    """Fits Platt scaling (Platt 1999): a logistic regression of each class's targets on its logits.

    As Platt's, the targets of N positive and M negative clips are (N+1)/(N+2) and 1/(M+2), so that
    the fit is finite where a logit separates them. A class without positive or without negative
    clips keeps its probabilities: scale 1, bias 0.

    Args:
        logits: (clips, classes).
        targets: (clips, classes); positive where a clip has the class.
    """
    has_class = targets > 0
    fits = np.tile([1.0, 0.0], (logits.shape[1], 1))
    for k in np.flatnonzero(has_both_outcomes(targets)):
        fits[k] = _fit_class(logits[:, k].astype(np.float64), has_class[:, k])
    return Calibration(fits[:, 0], fits[:, 1])


def has_both_outcomes(targets: np.ndarray) -> np.ndarray:
    """Returns whether some clips have a class and some have not, bool (classes,)."""
    positives = np.count_nonzero(targets > 0, axis=0)
    return np.asarray((positives > 0) & (positives < len(targets)))


def _fit_class(logits: np.ndarray, has_class: np.ndarray) -> tuple[float, float]:
    """Returns the scale and bias of one class."""
    positives, negatives = has_class.sum(), (~has_class).sum()
    targets = np.where(has_class, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    mean, std = logits.mean(), logits.std() or 1.0
    standardized = (logits - mean) / std

    def loss(fit: np.ndarray) -> tuple[float, np.ndarray]:
        calibrated = fit[0] * standardized + fit[1]
        errors = expit(calibrated) - targets
        value = (np.logaddexp(0, calibrated) - targets * calibrated).mean()
        return value, np.array([(errors * standardized).mean(), errors.mean()])

    def hessian(fit: np.ndarray) -> np.ndarray:
        shares = expit(fit[0] * standardized + fit[1])
        weights = shares * (1 - shares)
        mixed = (weights * standardized).mean()
        return np.array([[(weights * standardized**2).mean(), mixed], [mixed, weights.mean()]])

    start, options = np.array([0.0, logit(targets.mean())]), {"gtol": 1e-8}
    found = minimize(loss, start, jac=True, hess=hessian, method="trust-ncg", options=options)
    scale, bias = found.x
    return scale / std, bias - scale * mean / std


class Reliability(NamedTuple):
    """Probabilities by bin, beside how often they came true; each array is (bins,).

    For single-label problems the probability is that of the predicted class, which comes true if it
    is the clip's; otherwise that of every class of every clip, which comes true if the clip has it.

    Attributes:
        counts: int64, the number of probabilities in each of the equal bins from 0 to 1, which
            include their upper end.
        probability: float64, their mean; NaN for an empty bin.
        frequency: float64, the share that came true; NaN for an empty bin.
        expected_calibration_error: the mean difference of both, weighted by the counts.
    """

    counts: np.ndarray
    probability: np.ndarray
    frequency: np.ndarray
    expected_calibration_error: float


def reliability(
    problem_type: str, probabilities: np.ndarray, targets: np.ndarray, bins: int = BINS
) -> Reliability:
    """Computes the bins of a reliability diagram, as scikit-learn's `calibration_curve`.

    Args:
        problem_type: of the model.
        probabilities: (clips, classes).
        targets: (clips, classes).
        bins: their number.
    """
    if problem_type == "single_label_classification":
        came_true = probabilities.argmax(axis=1) == targets.argmax(axis=1)
        values = probabilities.max(axis=1)
    else:
        came_true, values = (targets > 0).ravel(), probabilities.ravel()
    index = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], values)
    counts = np.bincount(index, minlength=bins)
    sums, hits = (
        np.bincount(index, weights=weights, minlength=bins) for weights in (values, came_true)
    )
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        probability, frequency = sums / counts, hits / counts
    return Reliability(counts, probability, frequency, float(abs(sums - hits).sum() / len(values)))
