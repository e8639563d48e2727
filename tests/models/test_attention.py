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


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 19])
def test_the_cpu_path_equals_the_formula(qkv, tokens):
    qkv = [x[:, :tokens] for x in qkv]
    expected = plain(*(np.asarray(x, np.float64) for x in qkv))
    np.testing.assert_allclose(attention._attention_by_head(*qkv), expected, atol=1e-5)


def test_the_cpu_path_in_half_precision_is_off_by_its_rounding(qkv):
    qkv = [x.astype(jnp.bfloat16) for x in qkv]
    expected = plain(*(np.asarray(x, np.float64) for x in qkv))
    y = attention._attention_by_head(*qkv)
    assert y.dtype == jnp.bfloat16
    # Queries are rounded once they are scaled, weights before their product: both by 2**-9.
    np.testing.assert_allclose(y.astype(np.float32), expected, atol=0.03)


@pytest.mark.parametrize("gain", [1e4, -1e4])
def test_the_cpu_path_stands_scores_beyond_what_exp_does(qkv, gain):
    query, key, value = qkv
    ramp = jnp.arange(19.0)[None, :, None, None]  # the last key's score is the largest or the least
    query, key = jnp.ones_like(query), jnp.ones_like(key) * gain * ramp
    expected = jnp.broadcast_to(value[:, -1:] if gain > 0 else value[:, :1], value.shape)
    np.testing.assert_allclose(attention._attention_by_head(query, key, value), expected, rtol=1e-6)


def test_the_cpu_path_has_the_gradients_of_jax_own_attention(qkv):
    def gradients(function):
        return jax.grad(lambda *x: jnp.sin(function(*x)).sum(), argnums=(0, 1, 2))(*qkv)

    ours = gradients(attention._attention_by_head)
    theirs = gradients(jax.nn.dot_product_attention)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("tokens", [18, 19])
def test_an_odd_number_of_tokens_is_padded_and_none_attends_to_that(qkv, tokens):
    def logits_and_gradients(function):
        def loss(*x):
            y = function(*x)
            return jnp.sin(y).sum(), y

        cut = [x[:, :tokens] for x in qkv]
        return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*cut)

    found = logits_and_gradients(lambda *x: attention._even_attention(*x, "xla"))
    expected = logits_and_gradients(jax.nn.dot_product_attention)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_cudnn_is_never_given_an_odd_number_of_tokens(qkv, monkeypatch):
    given = []

    def dot_product_attention(query, key, value, implementation, **options):
        given.append((query.shape[1], implementation, sorted(options)))
        return query

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", dot_product_attention)
    half = [x.astype(jnp.bfloat16) for x in qkv]
    assert attention.dot_product_attention(*half).shape == (2, 19, 3, 8)
    attention.dot_product_attention(*(x[:, :18] for x in half))
    attention.dot_product_attention(*qkv)
    lengths = ["key_value_seq_lengths", "query_seq_lengths"]
    assert given == [(20, "cudnn", lengths), (18, "cudnn", []), (19, "xla", [])]


def test_attention_weights_are_those_the_output_is_made_with(qkv):
    query, key, value = qkv
    weights = attention.attention_weights(query, key)
    y = jnp.einsum("bhts,bshk->bthk", weights, value)
    np.testing.assert_allclose(y, attention.dot_product_attention(*qkv), atol=1e-5)
