"""Training criteria, and the probabilities that go with them."""

import math
from collections.abc import Callable

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Float32
from scipy.special import entr

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(
    logits: Float[Array, "batch classes"], targets: Float[Array, "batch classes"]
) -> Float[Array, ""]:
    """Computes the mean softmax cross-entropy; targets are class probabilities."""
    return optax.softmax_cross_entropy(logits, targets).mean()


def binary_cross_entropy(
    logits: Float[Array, "*batch classes"], targets: Float[Array, "*batch classes"]
) -> Float[Array, ""]:
    """Computes the mean sigmoid cross-entropy over all logits, as BCEWithLogitsLoss.

    Targets are the probability of each class.
    """
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean()


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
}


def criterion_of(problem_type: str) -> Loss:
    """Returns the training criterion: cross-entropy for single-label problems, else binary."""
    single = problem_type == "single_label_classification"
    return cross_entropy if single else binary_cross_entropy


def chance_loss(problem_type: str, targets: Float[np.ndarray, "clips classes"]) -> float:
    """Computes the loss of a prediction that is the same for all clips.

    For single-label problems it gives all classes the same probability, so that the loss is the
    log of their number; otherwise it gives each class the share of the clips that have it.
    """
    if problem_type == "single_label_classification":
        return math.log(targets.shape[1])
    shares = np.mean(targets > 0, axis=0)
    return float((entr(shares) + entr(1 - shares)).mean())


def with_label_smoothing(loss: Loss, smoothing: float) -> Loss:
    """Returns the loss against smoothed targets (Szegedy et al. 2016, section 7).

    Args:
        loss: one of `LOSSES`.
        smoothing: the share of a target that is spread evenly over all classes. In binary
            cross-entropy every class has two outcomes, so that targets range from
            smoothing/2 to 1 - smoothing/2.
    """

    def smoothed_loss(logits: jax.Array, targets: jax.Array) -> jax.Array:
        outcomes = 2 if loss is binary_cross_entropy else targets.shape[-1]
        return loss(logits, (1 - smoothing) * targets + smoothing / outcomes)

    return smoothed_loss if smoothing else loss


def probabilities(
    problem_type: str, logits: Float[np.ndarray, "clips classes"]
) -> Float32[np.ndarray, "clips classes"]:
    """Returns the probabilities: softmax for single-label problems, else sigmoid."""
    single = problem_type == "single_label_classification"
    return np.asarray((jax.nn.softmax if single else jax.nn.sigmoid)(logits))
