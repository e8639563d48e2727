import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.models.attention_cpu import attention_by_head


@pytest.fixture
def qkv():
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (2, 19, 3, 8)) for key in keys]


def plain(query, key, value):
    """Computes softmax(q·k/√d)·v in the plain form."""
    scores = np.einsum("bthk,bshk->bhts", query, key) / np.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhts,bshk->bthk", weights, value)


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 19])
def test_matches_the_formula(qkv, tokens):
    qkv = [x[:, :tokens] for x in qkv]
    expected = plain(*(np.asarray(x, np.float64) for x in qkv))
    np.testing.assert_allclose(attention_by_head(*qkv), expected, atol=1e-5)


def test_half_precision_error_is_rounding(qkv):
    qkv = [x.astype(jnp.bfloat16) for x in qkv]
    expected = plain(*(np.asarray(x, np.float64) for x in qkv))
    y = attention_by_head(*qkv)
    assert y.dtype == jnp.bfloat16
    # Scaled queries and attention weights are each rounded by 2**-9.
    np.testing.assert_allclose(y.astype(np.float32), expected, atol=0.03)


@pytest.mark.parametrize("gain", [1e4, -1e4])
def test_scores_beyond_the_range_of_exp_are_finite(qkv, gain):
    query, key, value = qkv
    ramp = jnp.arange(19.0)[
        None, :, None, None
    ]  # the last key's score is the largest or the smallest
    query, key = jnp.ones_like(query), jnp.ones_like(key) * gain * ramp
    expected = jnp.broadcast_to(value[:, -1:] if gain > 0 else value[:, :1], value.shape)
    np.testing.assert_allclose(attention_by_head(query, key, value), expected, rtol=1e-6)


def gradients(function, qkv):
    return jax.jit(jax.grad(lambda *x: jnp.sin(function(*x)).sum(), argnums=(0, 1, 2)))(*qkv)


@pytest.mark.parametrize(("clips", "tokens"), [(2, 1), (2, 15), (2, 16), (1, 17), (2, 19)])
def test_gradients_match_jax_attention(qkv, clips, tokens):
    qkv = [x[:clips, :tokens] for x in qkv]  # one clip has an odd number of heads
    ours = gradients(attention_by_head, qkv)
    theirs = gradients(jax.nn.dot_product_attention, qkv)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_half_precision_gradient_error_is_rounding(qkv):
    half = [x.astype(jnp.bfloat16) for x in qkv]
    ours = gradients(attention_by_head, half)
    exact = gradients(jax.nn.dot_product_attention, [x.astype(jnp.float32) for x in half])
    assert {x.dtype for x in ours} == {jnp.dtype("bfloat16")}
    for a, b in zip(ours, exact, strict=True):
        np.testing.assert_allclose(a.astype(np.float32), b, atol=0.015)


@pytest.mark.parametrize("gain", [1e4, -1e4])
def test_gradients_of_scores_beyond_the_range_of_exp_are_finite(qkv, gain):
    query, key, value = qkv
    ramp = jnp.arange(19.0)[None, :, None, None]
    *_, of_value = found = gradients(
        attention_by_head, (jnp.ones_like(query), jnp.ones_like(key) * gain * ramp, value)
    )
    assert all(np.isfinite(x).all() for x in found)
    one = 18 if gain > 0 else 0  # all tokens attend to this one
    np.testing.assert_allclose(of_value[:, one], 19 * jnp.cos(value[:, one]), rtol=1e-5)
    assert not np.any(np.delete(of_value, one, axis=1))


def test_residuals_do_not_include_attention_weights(qkv):
    kept = jax.tree.leaves(jax.eval_shape(lambda *x: jax.vjp(attention_by_head, *x)[1], *qkv))
    assert sum(x.size for x in kept) == 4 * qkv[0].size + 2 * 19 * 3
