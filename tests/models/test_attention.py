from functools import partial
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ast_jax.errors import InputError
from ast_jax.models import attention
from ast_jax.models.ast import ASTForAudioClassification, graphdef, init_params
from ast_jax.models.attention_tpu import attention_by_group
from ast_jax.models.config import ASTConfig

CONFIG = ASTConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_length=48,
    num_mel_bins=32,
    num_labels=3,
)
HALF = CONFIG.replace(dtype="bfloat16")


@pytest.fixture
def qkv():
    """Returns packed queries, keys and values of two clips, 19 tokens and three heads."""
    return jax.random.normal(jax.random.key(0), (2, 19, 3 * 3 * 8))


@pytest.mark.parametrize("implementation", ["cudnn", "cpu", "xla"])
@pytest.mark.parametrize(("tokens", "num_tokens"), [(18, None), (19, None), (19, 17), (18, 17)])
def test_only_the_first_num_tokens_are_attended_to(
    implementation, tokens, num_tokens, qkv, monkeypatch
):
    def values_and_gradients(attend):
        def loss(x):
            y = attend(x)
            return jnp.sin(y).sum(), y

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(qkv[:, :tokens])

    def reference(x):
        query, key, value = attention.split_heads(x, 3, None, num_tokens)
        y = jnp.einsum("bhts,bshk->bthk", attention.attention_weights(query, key), value)
        return attention.merge_heads(y)

    def as_cudnn(query, key, value, implementation, **options):
        assert query.shape[1] % 2 == key.shape[1] % 2 == 0 or implementation != "cudnn"
        return by_jax(query, key, value, implementation="xla", **options)

    by_jax = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", as_cudnn)
    found = values_and_gradients(
        lambda x: attention.attention(x, 3, implementation, num_tokens=num_tokens)
    )
    expected = values_and_gradients(reference)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


LENGTHS = jnp.array([[19, 7], [2, 18]])


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("implementation", ["cudnn", "tpu", "cpu", "xla"])
def test_each_clip_attends_to_its_own_number_of_tokens(implementation, lengths, qkv, monkeypatch):
    # Of padding, gains that overflow if a kernel computes its weights at all.
    is_padding = jnp.arange(19) >= lengths[:, None]
    qkv = jnp.where(is_padding[..., None], 1e4 * qkv, qkv)

    @jax.jit
    def values_and_gradients(qkv, lengths):
        def loss(qkv):
            y = jnp.where(is_padding[..., None], 0, attend(qkv, lengths))
            return jnp.sin(y).sum(), y

        return jax.value_and_grad(loss, has_aux=True)(qkv)

    def attend(qkv, lengths):
        if implementation == "tpu":
            return attention_by_group(qkv, 3, None, True, lengths)
        return attention.attention(qkv, 3, implementation, num_tokens=lengths)

    def as_cudnn(query, key, value, implementation, **options):
        return by_jax(query, key, value, implementation="xla", **options)

    by_jax = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", as_cudnn)
    (_, found), gradients = values_and_gradients(qkv, lengths)
    assert not gradients[is_padding].any()
    for clip, length in enumerate(lengths.tolist()):
        alone = qkv[clip : clip + 1, :length]
        expected, vjp = jax.vjp(lambda x: attention.attention(x, 3, "xla"), alone)
        (gradient,) = vjp(jnp.cos(expected))
        np.testing.assert_allclose(found[clip, :length], expected[0], atol=1e-5)
        np.testing.assert_allclose(gradients[clip, :length], gradient[0], atol=1e-5)


def test_cudnn_never_gets_an_odd_number_of_tokens(qkv, monkeypatch):
    given = []

    def dot_product_attention(query, key, value, implementation, **options):
        lengths = sorted(name for name, value in options.items() if value is not None)
        given.append((query.shape[1], implementation, lengths))
        return query

    monkeypatch.setattr(jax.nn, "dot_product_attention", dot_product_attention)
    half = qkv.astype(jnp.bfloat16)
    assert attention.attention(half, 3, "cudnn").shape == (2, 19, 3 * 8)
    attention.attention(half[:, :18], 3, "cudnn")
    attention.attention(qkv[:, :17], 3, "xla")
    lengths = ["key_value_seq_lengths", "query_seq_lengths"]
    assert given == [(20, "cudnn", lengths), (18, "cudnn", []), (17, "xla", [])]


@pytest.mark.parametrize("implementation", ["cpu", "xla"])
def test_attention_weights_reproduce_the_output(qkv, implementation):
    query, key, value = attention.split_heads(qkv, 3)
    weights = attention.attention_weights(query, key)
    y = attention.merge_heads(jnp.einsum("bhts,bshk->bthk", weights, value))
    np.testing.assert_allclose(y, attention.attention(qkv, 3, implementation), atol=1e-5)
    few = attention.attention(qkv, 3, implementation, num_output_tokens=2)
    np.testing.assert_allclose(few, y[:, :2], atol=1e-5)


@pytest.mark.parametrize("implementation", ["tpu", "cpu", "xla"])
@pytest.mark.parametrize("num_tokens", [None, 17])
def test_no_implementation_saves_the_weights_for_the_backward_pass(qkv, implementation, num_tokens):
    def backward(x):
        attend = partial(attention.attention, num_tokens=num_tokens)
        return jax.vjp(lambda x: attend(x, 3, implementation), x)[1]

    shapes = [x.shape for x in jax.tree.leaves(jax.eval_shape(backward, qkv))]
    assert shapes
    assert all(shape.count(19) + shape.count(17) < 2 for shape in shapes)


@pytest.mark.parametrize(
    ("platform", "capability", "changes", "expected"),
    [
        ("cpu", None, {}, "cpu"),
        ("cpu", None, {"dtype": "bfloat16"}, "cpu"),
        ("tpu", None, {"dtype": "bfloat16"}, "tpu"),
        ("tpu", None, {"dtype": "float32"}, "xla"),
        ("tpu", None, {"dtype": "bfloat16", "hidden_size": 272}, "xla"),  # heads of width 136
        ("gpu", "8.0", {"dtype": "bfloat16"}, "cudnn"),
        ("gpu", "10.0", {"dtype": "bfloat16"}, "cudnn"),
        ("gpu", "7.5", {"dtype": "bfloat16"}, "xla"),
        ("gpu", "gfx90a", {"dtype": "bfloat16"}, "xla"),  # AMD's
        ("gpu", "9.0", {"dtype": "float32"}, "xla"),
        ("gpu", "9.0", {"dtype": "bfloat16", "hidden_size": 40}, "xla"),  # heads of width 20
        ("gpu", "9.0", {"dtype": "bfloat16", "hidden_size": 272}, "xla"),  # heads of width 136
    ],
)
def test_the_implementation_depends_on_the_programs_devices(
    platform, capability, changes, expected
):
    config = CONFIG.replace(**changes)
    device = Mock(jax.Device, platform=platform, compute_capability=capability)
    found = attention.resolve_attn_implementation(config, [device] * 2)
    assert found == expected
    attention.check_attn_implementation(config, found)


@pytest.mark.parametrize(
    ("config", "implementation", "message"),
    [
        (CONFIG, "flash", "must be one of cudnn, tpu, cpu, xla, not 'flash'"),
        (CONFIG, "cudnn", "takes dtype bfloat16, not float32; use 'xla'"),
        (HALF.replace(hidden_size=40), "cudnn", "up to 128, not 20; use 'xla'"),
        (CONFIG, "tpu", "takes dtype bfloat16, not float32; use 'xla'"),
        (HALF.replace(hidden_size=272), "tpu", "up to 128, not 136; use 'xla'"),
    ],
)
def test_an_unsupported_implementation_is_refused(config, implementation, message):
    with pytest.raises(InputError, match=message):
        graphdef(config, implementation)


def test_a_model_uses_the_given_implementation():
    params = init_params(CONFIG)
    models = {
        name: ASTForAudioClassification.from_params(CONFIG, params, name)
        for name in (None, "cpu", "xla")
    }
    chosen = {
        name: model.ast.encoder.layers.attention.attn_implementation
        for name, model in models.items()
    }
    own = attention.resolve_attn_implementation(CONFIG, jax.devices())
    assert chosen == {None: own, "cpu": "cpu", "xla": "xla"}
    x = jax.random.normal(jax.random.key(1), (2, 48, 32))
    cpu, xla = (nnx.jit(lambda model, x: model(x))(models[name], x) for name in ("cpu", "xla"))
    np.testing.assert_allclose(cpu, xla, atol=1e-5)
