import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.errors import InputError
from ast_jax.models.ast import (
    ASTForAudioClassification,
    graphdef,
    init_params,
    param_shapes,
    round_kernels,
)
from ast_jax.models.config import ASTConfig
from ast_jax.models.patchout import sample_patchout
from ast_jax.models.remat import REMAT, scan_all_but_last
from tests.programs import equations
from tests.small_run import MODEL

TINY = ASTConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_length=48,
    num_mel_bins=32,
    num_labels=3,
)

CONFIG = MODEL.replace(num_hidden_layers=4, num_labels=5)
CLIPS = jax.random.normal(jax.random.key(1), (2, 64, 32))


@functools.cache
def large_params():
    """Returns larger parameters than the initial ones, so that attention is less uniform."""
    return jax.tree.map(lambda p: p * 3, init_params(CONFIG))


def model_of(config, seed=0):
    return ASTForAudioClassification.from_params(config, init_params(config, seed))


def test_the_base_size_has_the_originals_number_of_parameters(golden):
    entry = next(entry for entry in golden["models"] if entry["name"] == "audioset_10_10")
    unused = ("v.head.", "v.head_dist.")  # ImageNet's heads
    expected = sum(
        int(np.prod(shape))
        for name, shape in entry["tensors"].items()
        if not name.startswith(unused)
    )
    shapes = param_shapes(ASTConfig.from_size("base384"))
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    assert count == expected
    assert round(count / 1e6, 3) == 86.594


@settings(max_examples=8, deadline=None)  # each traces a model
@given(
    strides=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    size=st.tuples(st.integers(16, 40), st.integers(16, 60)),
)
def test_any_geometry_gives_the_grid_of_a_valid_convolution(strides, size):
    config = TINY.replace(
        frequency_stride=strides[0],
        time_stride=strides[1],
        num_mel_bins=size[0],
        max_length=size[1],
    )
    x = jnp.zeros((2, config.max_length, config.num_mel_bins))
    graph, params = graphdef(config), param_shapes(config)
    shapes = jax.eval_shape(lambda params, x: nnx.merge(graph, params).ast(x), params, x)
    frequency = len(range(0, size[0] - 15, strides[0]))
    time = len(range(0, size[1] - 15, strides[1]))
    assert config.grid == (frequency, time)
    assert shapes.last_hidden_state.shape == (2, 2 + frequency * time, 32)


def test_hidden_states_and_attentions_do_not_change_the_logits():
    model = model_of(TINY)
    x = jax.random.normal(jax.random.key(1), (2, 48, 32))
    plain = model.ast(x)
    full = model.ast(x, output_hidden_states=True, output_attentions=True)
    assert plain.hidden_states is None
    assert plain.attentions is None
    tokens = TINY.num_tokens
    assert full.hidden_states.shape == (3, 2, tokens, 32)
    assert full.attentions.shape == (2, 2, 4, tokens, tokens)
    np.testing.assert_allclose(full.attentions.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(full.last_hidden_state, plain.last_hidden_state, atol=1e-5)
    np.testing.assert_array_equal(full.hidden_states[0], model.ast.embeddings(x))


def test_tokens_are_frequency_major():
    config = TINY.replace(frequency_stride=16, time_stride=16)
    model = model_of(config)
    x = np.zeros((1, 48, 32), np.float32)
    before = model.ast.embeddings(x)
    x[:, 16:32, :16] = 1  # second patch along time, first along frequency
    changed = np.flatnonzero(np.abs(model.ast.embeddings(x) - before).max(axis=(0, 2)))
    assert changed.tolist() == [2 + 1]
    x[:] = 0
    x[:, :16, 16:] = 1  # first patch along time, second along frequency
    changed = np.flatnonzero(np.abs(model.ast.embeddings(x) - before).max(axis=(0, 2)))
    assert changed.tolist() == [2 + 3]


def test_clips_of_a_batch_are_independent():
    model, x = model_of(TINY), jax.random.normal(jax.random.key(1), (3, 48, 32))
    whole, alone = nnx.jit(lambda model, x: (model(x), model(x[1:2])))(model, x)
    np.testing.assert_allclose(whole[1], alone[0], atol=1e-5)


def test_an_input_of_another_shape_is_refused():
    model = model_of(TINY)
    with pytest.raises(InputError, match=r"shape \(1, 50, 32\); .*\(batch, 48, 32\)"):
        model(jnp.zeros((1, 50, 32)))
    with pytest.raises(InputError, match=r"shape \(0, 48, 32\)"):
        model(jnp.zeros((0, 48, 32)))


def test_initialization_matches_the_original():
    config = ASTConfig.from_size("tiny224")
    params = traverse_util.flatten_dict(init_params(config, seed=3), sep="/")
    for name, array in params.items():
        spread, middle = float(array.std()), float(array.mean())
        if name.endswith("scale"):
            assert (array == 1).all(), name
        elif name.startswith(("classifier/dense", "ast/embeddings/patch_projection")):
            fan_in = 192 if name.startswith("classifier") else 256
            assert np.abs(array).max() <= fan_in**-0.5, name
            assert spread == pytest.approx((fan_in * 3) ** -0.5, rel=0.1), name
        elif name.endswith("bias"):
            assert (array == 0).all(), name
        else:
            assert spread == pytest.approx(0.02, rel=0.15), name
            assert abs(middle) < 0.005, name


def test_layers_and_seeds_are_initialized_differently():
    kernel = init_params(TINY, seed=0)["ast"]["encoder"]["layers"]["mlp"]["fc1"]["kernel"]
    assert kernel.shape == (2, 32, 64)
    assert not np.allclose(kernel[0], kernel[1])
    other = init_params(TINY, seed=1)["ast"]["encoder"]["layers"]["mlp"]["fc1"]["kernel"]
    assert not np.allclose(kernel, other)


def test_parameters_round_trip_through_a_plain_dict():
    params = init_params(TINY)
    assert type(params) is dict
    model = ASTForAudioClassification.from_params(TINY, params)
    again = nnx.to_pure_dict(nnx.split(model)[1])
    jax.tree.map(np.testing.assert_array_equal, params, again)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hiden_size": 3}, "hiden_size"),
        ({"hidden_size": 30}, "hidden_size 30"),
        ({"max_length": 8}, "max_length 8"),
        ({"time_stride": 0}, "time_stride"),
        ({"num_labels": -1}, "num_labels"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps"),
        ({"dtype": "float16"}, "dtype"),
        ({"dtype": "int8"}, "int8 is no longer supported; set it to bfloat16 or float32"),
        ({"problem_type": "regression"}, "problem_type"),
        ({"id2label": {0: "a", 2: "b"}}, "id2label"),
        ({"qkv_bias": 1}, "qkv_bias"),
    ],
)
def test_an_invalid_configuration_names_the_field(changes, named):
    with pytest.raises(InputError, match=named):
        TINY.replace(**changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"id2label": {0: "a", 1: "b"}}, "id2label"),
        ({"hidden_size": 32.0}, "hidden_size"),
        ({"patch_size": [16]}, "patch_size"),
    ],
)
def test_an_invalid_configuration_is_refused_after_an_equal_valid_one(changes, named):
    params = init_params(TINY)
    invalid = dataclasses.replace(TINY, **changes)
    for function in (init_params, param_shapes, graphdef):
        with pytest.raises(InputError, match=named):
            function(invalid)
    with pytest.raises(InputError, match=named):
        ASTForAudioClassification.from_params(invalid, params)
    with pytest.raises(InputError, match="attn_implementation must be one of"):
        ASTForAudioClassification.from_params(TINY, params, ["cpu"])


def test_models_of_equal_shape_keep_their_own_class_names():
    for names in ("abc", "xyz"):
        config = TINY.replace(id2label=dict(enumerate(names)))
        assert model_of(config).config.labels == list(names)


def test_config_json_round_trips_and_hugging_face_reads_it():
    from transformers import ASTConfig as HuggingFaceConfig

    config = TINY.replace(id2label={0: "dog", 1: "rain", 2: "sea"}, layer_norm_eps=1e-5)
    theirs = HuggingFaceConfig(**config.to_dict())
    for field in ("hidden_size", "frequency_stride", "max_length", "num_mel_bins", "num_labels"):
        assert getattr(theirs, field) == getattr(config, field), field
    assert theirs.id2label == config.id2label
    assert ASTConfig.from_dict(config.to_dict()) == config
    back = ASTConfig.from_dict(theirs.to_dict())
    assert back == config


@jax.jit
def compute_logits(params, x, keep_indices=None):
    return nnx.merge(graphdef(CONFIG), params)(x, keep_indices)


def logits_of(x, keep_indices=None):
    return compute_logits(large_params(), x, keep_indices)


def whole(params, x):
    """Computes the logits with all tokens in every layer."""
    model = nnx.merge(graphdef(CONFIG), params)
    return model.classifier(model.ast(x).pooler_output)


def with_gradients(function, clips=CLIPS):
    def loss(params, x):
        logits = function(params, x)
        return jnp.sin(logits).sum(), logits

    (_, logits), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
        large_params(), clips
    )
    return logits, gradients


@functools.cache
def expected_with_gradients():
    return with_gradients(whole)


def assert_equal(found, expected):
    """Asserts equality to 1e-5, or to 1e-5 of an array's largest value if that exceeds 1."""

    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max()))

    jax.tree.map(check, found, expected)


@functools.cache
def gradients_with_patchout(clips, dtype="float32", remat="none", implementation="xla"):
    graph = graphdef(CONFIG.replace(dtype=dtype), implementation)
    kept = jnp.array([[0, 1, 3, 4, 7], [1, 2, 5, 6, 7]])[:clips]  # an odd number of tokens

    def loss(params):
        logits = nnx.merge(graph, params)(CLIPS[:clips], kept, remat=remat)
        return jnp.sin(logits).sum()

    return jax.jit(jax.grad(loss))(large_params())


@pytest.mark.parametrize("implementation", ["cpu", "xla"])
@pytest.mark.parametrize(
    ("clips", "remat"), [(2, "norms_and_activations"), (2, "everything"), (1, "none")]
)
def test_half_precision_gradients_match_float32_up_to_rounding(clips, remat, implementation):
    def check(half, full):
        assert half.dtype == jnp.float32
        half, full = np.asarray(half), np.asarray(full)
        error = np.linalg.norm(half - full) / np.linalg.norm(full)
        assert error < 0.05, f"{half.shape}: {error}"

    found = gradients_with_patchout(clips, "bfloat16", remat, implementation)
    jax.tree.map(check, found, gradients_with_patchout(clips))


@pytest.mark.parametrize("implementation", ["cpu", "xla"])
@pytest.mark.parametrize("remat", REMAT)
def test_logits_and_gradients_match_a_full_last_layer(remat, implementation):
    graph = graphdef(CONFIG, implementation)
    found = with_gradients(lambda p, x: nnx.merge(graph, p)(x, remat=remat))
    assert_equal(found, expected_with_gradients())


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("remat", REMAT)
def test_all_layers_except_the_last_are_one_loop(clips, remat):
    def training(params, x):
        return nnx.merge(graphdef(CONFIG), params)(x, remat=remat)

    program = jax.make_jaxpr(training)(large_params(), CLIPS[:clips]).jaxpr
    loops = [x for x, _ in equations(program) if x.primitive.name == "scan"]
    (loop,) = (x for x in loops if x.params["length"] == 3)
    assert loop.params["unroll"] == 1


def test_unrolled_layers_match_the_loop():
    def layer(x, params):
        return jnp.tanh(x @ params["kernel"])

    x, stacked = jnp.ones((2, 4)), {"kernel": jax.random.normal(jax.random.key(0), (3, 4, 4))}

    def value_and_gradients(unroll):
        def loss(x, stacked):
            return scan_all_but_last(layer, x, stacked, unroll).sum()

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, stacked)

    assert_equal(value_and_gradients(True), value_and_gradients(False))


@pytest.mark.parametrize("num_output_tokens", [1, 2, 5])
@pytest.mark.parametrize("implementation", ["cpu", "xla"])
def test_num_output_tokens_returns_the_first_tokens(num_output_tokens, implementation):
    @jax.jit
    def both(params, clips):
        model = nnx.merge(graphdef(CONFIG, implementation), params)
        encoder, x = model.ast.encoder, model.ast.embeddings(clips)
        return encoder(x, num_output_tokens), encoder(x)[:, :num_output_tokens]

    np.testing.assert_allclose(*both(large_params(), CLIPS), atol=1e-5)


def test_a_single_layer_is_the_last_layer():
    config = CONFIG.replace(num_hidden_layers=1)

    @jax.jit
    def both(params, x):
        model = nnx.merge(graphdef(config), params)
        return model(x), model.classifier(model.ast(x).pooler_output)

    np.testing.assert_allclose(*both(init_params(config), CLIPS), atol=1e-5)


def test_keeping_all_patches_equals_no_patchout():
    all_patches = jnp.tile(jnp.arange(8), (2, 1))
    np.testing.assert_allclose(logits_of(CLIPS, all_patches), logits_of(CLIPS), atol=1e-6)


def test_dropped_patches_have_no_effect_and_others_keep_their_positions():
    # The patches do not overlap, so each value belongs to one patch.
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
    )  # positions matter, not the order


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounded_kernels_give_the_same_logits_in_less_memory(dtype):
    config = TINY.replace(dtype=dtype)
    params = init_params(config)
    rounded = round_kernels(config, params)
    layer = rounded["ast"]["encoder"]["layers"]
    assert layer["mlp"]["fc1"]["kernel"].dtype == dtype
    assert layer["mlp"]["fc1"]["bias"].dtype == jnp.float32
    assert rounded["classifier"] is params["classifier"]
    inputs = np.random.default_rng(0).standard_normal(
        (2, config.max_length, config.num_mel_bins), dtype=np.float32
    )

    def logits(params):
        model = ASTForAudioClassification.from_params(config, params)
        return nnx.jit(lambda model, inputs: model(inputs))(model, inputs)

    np.testing.assert_array_equal(logits(rounded), logits(params))
