import jax.numpy as jnp
import pytest

from ast_jax.losses import binary_cross_entropy, cross_entropy, with_label_smoothing


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
