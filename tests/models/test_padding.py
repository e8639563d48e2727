"""A clip's results do not depend on the clips beside it and on the padding behind it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.errors import InputError
from ast_jax.models.ast import graphdef, init_params
from ast_jax.models.config import ASTConfig
from ast_jax.models.padding import check_num_frames

CONFIG = ASTConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_length=58,
    num_mel_bins=32,
    num_labels=3,
)
ROWS, COLUMNS = CONFIG.grid
CLIPS = np.random.default_rng(0).standard_normal((3, 58, 32)).astype(np.float32)
PADDING = 0.467  # of log-mels, after normalization


@functools.cache
def params():
    """Returns larger parameters than the initial ones, so that attention is less uniform."""
    return jax.tree.map(lambda p: p * 3, init_params(CONFIG))


def columns_of(frames):
    """Returns the columns of patches with one of the first frames."""
    return min(-(-frames // 10), COLUMNS)


def padded(lengths, frames=58):
    """Returns the first frames of each clip, padded."""
    inputs = np.array(CLIPS[: len(lengths), :frames])
    for clip, length in zip(inputs, lengths, strict=True):
        clip[length:] = PADDING
    return inputs


@functools.cache
def alone_function(columns):
    """Returns the function of a model as long as so many columns, which has no padding."""
    frames = CONFIG.max_length if columns == COLUMNS else 6 + 10 * columns
    positions = params()["ast"]["embeddings"]["position_embeddings"]
    prefix, grid = positions[:, :2], positions[:, 2:].reshape(ROWS, COLUMNS, -1)[:, :columns]
    embeddings = params()["ast"]["embeddings"] | {
        "position_embeddings": jnp.concatenate([prefix, grid.reshape(1, ROWS * columns, -1)], 1)
    }
    own = params() | {"ast": params()["ast"] | {"embeddings": embeddings}}
    graph = graphdef(CONFIG.replace(max_length=frames), "xla")

    @jax.jit
    def function(params, x):
        model = nnx.merge(graph, params)
        found = model.ast(x)
        return model.classifier(found.pooler_output)[0], found.last_hidden_state[0]

    return lambda clip: function(own, clip[None, :frames])


@functools.partial(jax.jit, static_argnames="implementation")
def masked(params, x, num_frames, keep_indices=None, implementation="xla"):
    model = nnx.merge(graphdef(CONFIG, implementation), params)
    return model(x, keep_indices, num_frames=num_frames)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 58), min_size=3, max_size=3))
def test_logits_are_those_of_each_clip_alone_at_its_own_length(lengths):
    inputs = padded(lengths)
    for implementation in ("cpu", "xla"):
        logits = masked(params(), inputs, jnp.array(lengths), None, implementation)
        for clip, length, found in zip(inputs, lengths, logits, strict=True):
            expected, _ = alone_function(columns_of(length))(clip)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_shorter_input_gives_the_same_logits_and_gradients():
    lengths = jnp.array([26, 7, 13])

    @functools.partial(jax.jit, static_argnames="remat")
    def logits_and_gradients(params, x, remat):
        def loss(params):
            logits = nnx.merge(graphdef(CONFIG, "cpu"), params)(x, num_frames=lengths, remat=remat)
            return jnp.sin(logits).sum(), logits

        return jax.grad(loss, has_aux=True)(params)

    # 36 frames are 3 columns, as many as 26 frames touch
    expected = logits_and_gradients(params(), padded(lengths), "none")
    found = logits_and_gradients(params(), padded(lengths, 36), "norms_and_activations")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max())),
        found,
        expected,
    )


def test_tokens_and_attentions_keep_their_order():
    length = 23
    model = nnx.merge(graphdef(CONFIG, "xla"), params())
    states = jax.jit(
        lambda x, n: model.ast(x, output_hidden_states=True, output_attentions=True, num_frames=n)
    )(padded([length, 58]), jnp.array([length, 58]))
    tokens = np.arange(CONFIG.num_tokens - 2).reshape(ROWS, COLUMNS)[:, : columns_of(length)]
    tokens = np.concatenate([[0, 1], 2 + tokens.ravel()])
    _, expected = alone_function(columns_of(length))(padded([length])[0])
    np.testing.assert_allclose(states.last_hidden_state[0, tokens], expected, atol=1e-5)
    weights = np.asarray(states.attentions)[:, 0]
    np.testing.assert_allclose(weights[..., tokens].sum(-1), 1, atol=1e-5)
    assert not np.delete(weights, tokens, axis=-1).any()
    assert states.hidden_states.shape == (3, 2, CONFIG.num_tokens, 32)
    np.testing.assert_array_equal(
        states.hidden_states[0], model.ast.embeddings(padded([length, 58]))
    )


def test_patchout_with_padding_equals_keeping_the_real_patches_alone():
    lengths = jnp.array([58, 18])  # 2 real columns of 5
    kept = np.array([[0, 1, 2, 4, 5, 6, 7, 9], [0, 3, 1, 4, 5, 6, 8, 9]])
    found = masked(params(), padded(lengths), lengths, kept)
    alone = masked(params(), padded(lengths)[1:], lengths[1:], kept[1:, [0, 2, 4, 5]])
    np.testing.assert_allclose(found[1], alone[0], atol=1e-5)
    whole = jax.jit(lambda p, x, keep: nnx.merge(graphdef(CONFIG), p)(x, keep))(
        params(), padded(lengths), kept
    )
    np.testing.assert_allclose(found[0], whole[0], atol=1e-5)


@pytest.mark.parametrize("num_frames", [np.full(3, 2**31 - 1), np.full(3, 58, np.int8)])
def test_num_frames_of_any_integer_dtype_and_beyond_the_input_are_all_frames(num_frames):
    model = nnx.merge(graphdef(CONFIG, "xla"), params())
    _, num_tokens = model.ast.embeddings.encoder_input(padded([58] * 3), num_frames=num_frames)
    assert num_tokens.dtype == jnp.int32
    np.testing.assert_array_equal(num_tokens, CONFIG.num_tokens)


@pytest.mark.parametrize("num_frames", [np.array([1, 2]), jnp.ones(3), np.ones((3, 1), int), 58])
def test_num_frames_must_be_an_integer_for_each_clip(num_frames):
    with pytest.raises(InputError, match=r"num_frames, a .*; give an array of integers \(3,\)"):
        check_num_frames(num_frames, 3)


def test_an_input_that_is_too_long_or_short_is_refused():
    model = nnx.merge(graphdef(CONFIG), params())
    for frames in (15, 59):
        inputs = np.zeros((1, frames, 32), np.float32)
        with pytest.raises(InputError, match=r"\(batch, frames, 32\) with 16 to 58 frames"):
            model(inputs, num_frames=np.array([frames]))
