import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from ast_jax.models.attention import attention_weights


def test_a_wrong_shape_or_dtype_raises_in_the_tests():
    query, key = jnp.zeros((1, 2, 3, 4)), jnp.zeros((1, 5, 3, 4))
    assert attention_weights(query, key).shape == (1, 3, 2, 5)
    for wrong in (key[..., :2], key[0], key.astype(int)):
        with pytest.raises(TypeCheckError):
            attention_weights(query, wrong)
