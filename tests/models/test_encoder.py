import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ast_jax.models.ast import graphdef, init_params
from ast_jax.models.config import ASTConfig
from ast_jax.models.patchout import sample_patchout
from ast_jax.models.remat import REMAT
from tests.programs import equations

CONFIG = ASTConfig(
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=64,
    frequency_stride=16,
    time_stride=16,
    max_length=64,
    num_mel_bins=32,
    num_labels=5,
)
PARAMS = jax.tree.map(lambda p: p * 3, init_params(CONFIG))  # attention that is not uniform
CLIPS = jax.random.normal(jax.random.key(1), (2, 64, 32))


@jax.jit
def logits_of(x, keep_indices=None):
    return nnx.merge(graphdef(CONFIG), PARAMS)(x, keep_indices)


def whole(params, x):
    """Logits by way of every token of every layer."""
    model = nnx.merge(graphdef(CONFIG), params)
    return model.classifier(model.ast(x).pooler_output)


def with_gradients(function, clips=CLIPS):
    def loss(params, x):
        logits = function(params, x)
        return jnp.sin(logits).sum(), logits

    (_, logits), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
        PARAMS, clips
    )
    return logits, gradients


def assert_equal(found, expected):
    """To 1e-5, of an array's largest value where that is more than 1."""

    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max()))

    jax.tree.map(check, found, expected)


@pytest.mark.parametrize("implementation", ["cpu", "xla"])
@pytest.mark.parametrize(
    ("clips", "remat"), [(2, "norms_and_activations"), (2, "everything"), (1, "none")]
)
def test_gradients_in_half_precision_are_those_in_float32_but_for_its_rounding(
    clips, remat, implementation
):
    kept = jnp.array([[0, 1, 3, 4, 7], [1, 2, 5, 6, 7]])[:clips]  # an odd number of tokens

    def gradients(dtype):
        graph = graphdef(CONFIG.replace(dtype=dtype), implementation)

        def loss(params):
            logits = nnx.merge(graph, params)(CLIPS[:clips], kept, remat=remat)
            return jnp.sin(logits).sum()

        return jax.jit(jax.grad(loss))(PARAMS)

    def check(half, full):
        assert half.dtype == jnp.float32
        error = jnp.linalg.norm(half - full) / jnp.linalg.norm(full)
        assert error < 0.05, f"{half.shape}: {error}"

    jax.tree.map(check, gradients("bfloat16"), gradients("float32"))


@pytest.mark.parametrize("implementation", ["cpu", "xla"])
@pytest.mark.parametrize("remat", REMAT)
def test_logits_and_gradients_are_those_of_all_tokens_through_all_layers(remat, implementation):
    graph = graphdef(CONFIG, implementation)
    found = with_gradients(lambda p, x: nnx.merge(graph, p)(x, remat=remat))
    assert_equal(found, with_gradients(whole))


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("remat", REMAT)
def test_all_layers_but_the_last_are_one_loop(clips, remat):
    def training(params, x):
        return nnx.merge(graphdef(CONFIG), params)(x, remat=remat)

    program = jax.make_jaxpr(training)(PARAMS, CLIPS[:clips]).jaxpr
    loops = [x for x, _ in equations(program) if x.primitive.name == "scan"]
    (loop,) = (x for x in loops if x.params["length"] == 3)
    assert loop.params["unroll"] == 1


@pytest.mark.parametrize("num_output_tokens", [1, 2, 5])
@pytest.mark.parametrize("implementation", ["cpu", "xla"])
def test_the_first_tokens_alone_are_those_of_all(num_output_tokens, implementation):
    model = nnx.merge(graphdef(CONFIG, implementation), PARAMS)
    encoder, x = model.ast.encoder, model.ast.embeddings(CLIPS)
    expected = encoder(x)[:, :num_output_tokens]
    np.testing.assert_allclose(encoder(x, num_output_tokens), expected, atol=1e-5)


def test_one_layer_alone_is_the_last():
    config = CONFIG.replace(num_hidden_layers=1)

    @jax.jit
    def both(params, x):
        model = nnx.merge(graphdef(config), params)
        return model(x), model.classifier(model.ast(x).pooler_output)

    np.testing.assert_allclose(*both(init_params(config), CLIPS), atol=1e-5)


def test_all_patches_kept_is_no_patchout():
    everyone = jnp.tile(jnp.arange(8), (2, 1))
    np.testing.assert_allclose(logits_of(CLIPS, everyone), logits_of(CLIPS), atol=1e-6)


def test_patches_left_out_count_for_nothing_and_the_others_keep_their_positions():
    # The patches do not overlap, so that a clip's other samples can be anything.
    keys = jax.random.split(jax.random.key(2), 2)
    kept = jax.vmap(lambda key: sample_patchout(key, CONFIG.grid, 1, 2))(keys)
    assert kept.shape == (2, 2)
    changed, touched = np.array(CLIPS), np.array(CLIPS)
    for clip in range(2):
        for patch in range(8):
            row, column = divmod(patch, CONFIG.grid[1])
            place = clip, slice(16 * column, 16 * column + 16), slice(16 * row, 16 * row + 16)
            (touched if patch in kept[clip] else changed)[place] += 1
    logits = logits_of(CLIPS, kept)
    np.testing.assert_allclose(logits_of(changed, kept), logits, atol=1e-6)
    assert np.abs(logits_of(touched, kept) - logits).max(axis=1).min() > 1e-3
    assert (
        np.abs(logits_of(CLIPS, kept[:, ::-1]) - logits).max() < 1e-5
    )  # by position, not by order
