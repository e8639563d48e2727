import jax
import pytest
from flax import nnx

from ast_jax.errors import InputError
from ast_jax.models.ast import graphdef, param_shapes
from ast_jax.models.remat import REMAT, rematerialize
from tests.small_run import MODEL

CONFIG = MODEL.replace(num_hidden_layers=4, num_labels=5)
PARAMS = param_shapes(CONFIG)
CLIPS = jax.random.normal(jax.random.key(1), (2, 64, 32))
LAYERS, TOKENS = CONFIG.num_hidden_layers - 1, CONFIG.num_tokens  # all layers except the last


def saved(remat, implementation, config=CONFIG):
    """Returns the residuals; those of all layers except the last are stacked."""

    def forward(params, x):
        model = graphdef(config, implementation)
        return jax.vjp(lambda p: nnx.merge(model, p)(x, remat=remat), params)[1]

    return jax.tree.leaves(jax.eval_shape(forward, PARAMS, CLIPS))


def of_tokens(arrays):
    """Returns (elements per token, dtype) of the loop's residuals, without parameters."""
    tokens = LAYERS * len(CLIPS) * TOKENS
    kept = [x for x in arrays if x.shape[:1] == (LAYERS,) and TOKENS in x.shape[1:]]
    return sorted((x.size // tokens, x.dtype.name) for x in kept)


@pytest.mark.parametrize("implementation", ["cpu", "xla"])
def test_norms_and_activations_save_only_their_arguments(implementation):
    width, hidden = CONFIG.hidden_size, CONFIG.intermediate_size
    # The layer's input, attention's output, the sum after it, and the products in between; mean and
    # deviation of two norms.
    expected = [width, width, width, hidden, 3 * width, *[1] * 4]
    if implementation == "cpu":
        arrays = saved("norms_and_activations", implementation)
        log_sums = [x for x in arrays if x.shape[:2] == (LAYERS, len(CLIPS) * 2)]
        assert [x.size for x in log_sums] == [LAYERS * len(CLIPS) * 2 * TOKENS]
        expected.insert(0, CONFIG.num_attention_heads)
    found = of_tokens(saved("norms_and_activations", implementation))
    assert found == [(size, "float32") for size in sorted(expected)]


def test_only_the_residual_stream_is_saved_in_float32():
    config = CONFIG.replace(dtype="bfloat16")
    width, hidden = CONFIG.hidden_size, CONFIG.intermediate_size
    assert of_tokens(saved("norms_and_activations", "xla", config)) == [
        *[(1, "float32")] * 4,  # mean and deviation of two norms
        (width, "bfloat16"),
        (width, "float32"),
        (width, "float32"),
        (hidden, "bfloat16"),
        (3 * width, "bfloat16"),
    ]


@pytest.mark.parametrize("implementation", ["cpu", "xla"])
def test_everything_saves_only_each_layers_input(implementation):
    found = of_tokens(saved("everything", implementation))
    assert found == [(CONFIG.hidden_size, "float32")]


@pytest.mark.parametrize("implementation", ["cpu", "xla"])
def test_each_policy_saves_less_than_the_previous_one(implementation):
    sizes = [sum(x.size for x in saved(remat, implementation)) for remat in REMAT]
    sizes = [size - sum(x.size for x in jax.tree.leaves(PARAMS)) for size in sizes]
    assert sizes[0] > 1.3 * sizes[1] > 1.3 * 1.5 * sizes[2]


def test_an_unknown_policy_is_refused():
    with pytest.raises(InputError, match="must be one of none, norms_and_activations, everything"):
        rematerialize(lambda x: x, "some")


def test_inference_makes_no_copy_of_the_layers_parameters():
    config = CONFIG.replace(hidden_size=128, intermediate_size=512, num_hidden_layers=12)
    model, params = graphdef(config, "cpu"), param_shapes(config)
    program = jax.jit(lambda params, x: nnx.merge(model, params)(x)).lower(params, CLIPS).compile()
    layers = jax.tree.leaves(params["ast"]["encoder"])
    size = sum(x.size * x.dtype.itemsize for x in layers)
    assert program.memory_analysis().temp_size_in_bytes < size / 2
