import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.models import attention


@pytest.fixture
def qkv():
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (2, 19, 3, 8)) for key in keys]


def plain(query, key, value):
    """softmax(q·k/√d)·v as the formula has it."""
    scores = np.einsum("bthk,bshk->bhts", query, key) / np.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhts,bshk->bthk", weights, value)


def test_the_cpu_path_equals_the_formula(qkv):
    expected = plain(*(np.asarray(x, np.float64) for x in qkv))
    np.testing.assert_allclose(attention._attention_by_head(*qkv), expected, atol=1e-5)


def test_the_cpu_path_has_the_gradients_of_jax_own_attention(qkv):
    def gradients(function):
        return jax.grad(lambda *x: jnp.sin(function(*x)).sum(), argnums=(0, 1, 2))(*qkv)

    ours = gradients(attention._attention_by_head)
    theirs = gradients(jax.nn.dot_product_attention)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_attention_weights_are_those_the_output_is_made_with(qkv):
    query, key, value = qkv
    weights = attention.attention_weights(query, key)
    y = jnp.einsum("bhts,bshk->bthk", weights, value)
    np.testing.assert_allclose(y, attention.dot_product_attention(*qkv), atol=1e-5)
