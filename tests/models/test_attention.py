import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.models import attention


@pytest.fixture
def qkv():
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (2, 19, 3, 8)) for key in keys]


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
