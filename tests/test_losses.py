import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.losses import (
    binary_cross_entropy,
    chance_loss,
    cross_entropy,
    with_label_smoothing,
)


def test_label_smoothing_spreads_a_fraction_of_the_target():
    logits = jnp.array([[2.0, -1.0, 0.5]])
    targets = jnp.array([[1.0, 0, 0]])
    single = with_label_smoothing(cross_entropy, 0.3)(logits, targets)
    assert float(single) == pytest.approx(
        float(cross_entropy(logits, jnp.array([[0.8, 0.1, 0.1]])))
    )
    each = with_label_smoothing(binary_cross_entropy, 0.3)(logits, targets)
    assert float(each) == pytest.approx(
        float(binary_cross_entropy(logits, jnp.array([[0.85, 0.15, 0.15]])))
    )
    assert with_label_smoothing(cross_entropy, 0) is cross_entropy


def test_chance_is_the_loss_of_equal_probabilities_or_of_each_class_share():
    one = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]]
    loss = cross_entropy(jnp.zeros((5, 4)), jnp.asarray(one))
    assert chance_loss("single_label_classification", one) == pytest.approx(float(loss))
    several = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1], [1, 1, 0]], np.float32)
    shares = np.array([0.5, 1 - 1e-7, 0.25])
    logits = np.broadcast_to(np.log(shares / (1 - shares)), several.shape)
    loss = binary_cross_entropy(jnp.asarray(logits), jnp.asarray(several))
    assert chance_loss("multi_label_classification", several) == pytest.approx(float(loss))
