import jax
import numpy as np
import pytest
from flax import traverse_util
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ast_jax.checkpoint.torch_names import (
    IGNORED,
    TABLE,
    finite_float32,
    params_from_tensors,
    tensors_from_params,
)
from ast_jax.errors import InputError
from ast_jax.models.ast import param_shapes
from ast_jax.models.config import ASTConfig


def random_bits(shape, rng):
    """Returns finite float32 values of any sign and exponent, to test exact copies."""
    array = rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)
    return np.where(np.isfinite(array), array, np.float32(-0.0))


def assert_equal_bits(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        assert actual[name].dtype == expected[name].dtype == np.float32
        assert actual[name].shape == expected[name].shape, name
        assert actual[name].tobytes() == np.ascontiguousarray(expected[name]).tobytes(), name


def flat(params):
    return traverse_util.flatten_dict(params, sep="/")


configs = st.builds(
    ASTConfig,
    hidden_size=st.sampled_from([6, 12]),
    num_hidden_layers=st.integers(1, 3),
    num_attention_heads=st.sampled_from([1, 2, 3]),
    intermediate_size=st.integers(1, 9),
    patch_size=st.integers(1, 5),
    qkv_bias=st.booleans(),
    frequency_stride=st.integers(1, 4),
    time_stride=st.integers(1, 4),
    max_length=st.integers(5, 12),
    num_mel_bins=st.integers(5, 9),
    num_labels=st.integers(1, 4),
)


@pytest.mark.parametrize("checkpoint_format", ["original", "huggingface"])
@settings(max_examples=20, deadline=None)
@given(config=configs, headless=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_params_round_trip_exactly(checkpoint_format, config, headless, seed):
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda a: random_bits(a.shape, rng), param_shapes(config))
    if headless:
        del params["classifier"]
    tensors = tensors_from_params(params, checkpoint_format)
    again, ignored = params_from_tensors(tensors, checkpoint_format, config, "x.pth")
    assert_equal_bits(flat(again), flat(params))
    assert ignored == []


def test_tensors_round_trip_exactly(original_tensors, small_config):
    tensors = original_tensors(imagenet_heads=False)
    params, _ = params_from_tensors(tensors, "original", small_config, "x.pth")
    assert_equal_bits(tensors_from_params(params, "original"), tensors)
    theirs = tensors_from_params(params, "huggingface")
    params, _ = params_from_tensors(theirs, "huggingface", small_config, "x.safetensors")
    assert_equal_bits(tensors_from_params(params, "original"), tensors)


def test_the_table_has_every_tensor_of_the_published_checkpoints(golden):
    published = golden["audioset_finetune_source"]["tensors"]
    named = {row[1].replace("{i}", str(layer)) for row in TABLE for layer in range(12)}
    assert named | set(IGNORED) == set(published)


def test_the_table_fills_exactly_the_models_parameters(small_config):
    assert {row[0] for row in TABLE} == set(flat(param_shapes(small_config)))
    assert len({row[2] for row in TABLE}) == len(TABLE)


def test_query_key_and_value_are_concatenated_in_that_order(original_tensors, small_config):
    tensors = original_tensors()
    params, _ = params_from_tensors(tensors, "original", small_config, "x.pth")
    theirs = tensors_from_params(params, "huggingface")
    for i, part in enumerate(("query", "key", "value")):
        rows = slice(64 * i, 64 * (i + 1))
        name = f"audio_spectrogram_transformer.encoder.layer.1.attention.attention.{part}"
        qkv = "v.blocks.1.attn.qkv"
        np.testing.assert_array_equal(theirs[f"{name}.weight"], tensors[f"{qkv}.weight"][rows])
        np.testing.assert_array_equal(theirs[f"{name}.bias"], tensors[f"{qkv}.bias"][rows])


def test_the_unused_imagenet_heads_are_listed_as_ignored(original_tensors, small_config):
    _, ignored = params_from_tensors(original_tensors(), "original", small_config, "x.pth")
    assert sorted(ignored) == sorted(IGNORED)


def test_a_checkpoint_without_a_head_gives_params_without_one(original_tensors, small_config):
    tensors = {k: v for k, v in original_tensors().items() if not k.startswith("mlp_head")}
    params, _ = params_from_tensors(tensors, "original", small_config, "x.pth")
    assert set(params) == {"ast"}


# ---- one wrong tensor at a time


def break_each(tensors, checkpoint_format, config, change):
    """Yields each tensor's name with the message when that tensor alone is changed."""
    for name in tensors:
        if name in IGNORED:
            continue
        broken = dict(tensors)
        change(broken, name)
        with pytest.raises(InputError) as caught:
            params_from_tensors(broken, checkpoint_format, config, "x.pth")
        yield name, str(caught.value)


@pytest.fixture(params=["original", "huggingface"])
def checkpoint(request, original_tensors, small_config, monkeypatch):
    shapes = param_shapes(small_config)  # once, as it is slow
    monkeypatch.setattr("ast_jax.checkpoint.torch_names.param_shapes", lambda config: shapes)
    tensors = original_tensors(imagenet_heads=False)
    if request.param == "huggingface":
        params, _ = params_from_tensors(tensors, "original", small_config, "x.pth")
        tensors = tensors_from_params(params, "huggingface")
    return tensors, request.param, small_config


def test_any_missing_tensor_is_named(checkpoint):
    for name, message in break_each(*checkpoint, lambda tensors, name: tensors.pop(name)):
        assert message.startswith(f"x.pth: tensor {name} is missing; ")


def test_any_tensor_with_nan_or_infinite_values_is_named(checkpoint):
    def spoil(tensors, name):
        tensors[name] = tensors[name].copy()
        tensors[name].flat[-1] = np.inf if "bias" in name else np.nan

    for name, message in break_each(*checkpoint, spoil):
        assert message.startswith(f"x.pth: tensor {name} holds NaN or infinite values; ")


@pytest.mark.parametrize(
    "reshape",
    [
        lambda x: x[:-1],
        lambda x: x[..., :-1],
        lambda x: x[None],
        lambda x: x.reshape(-1)[0],
        lambda x: x[:0],
        lambda x: np.concatenate([x, x]),
        lambda x: x.reshape(-1) if x.ndim > 1 else x[:, None],
    ],
    ids=["cut", "narrower", "deeper", "scalar", "empty", "doubled", "another rank"],
)
def test_any_tensor_of_another_shape_is_named(checkpoint, reshape):
    def change(tensors, name):
        tensors[name] = reshape(tensors[name])

    for name, message in break_each(*checkpoint, change):
        assert message.startswith(f"x.pth: tensor {name} has shape (")
        assert f" requires {checkpoint[0][name].shape}; " in message


@pytest.mark.parametrize("name", ["v.blocks.2.norm1.weight", "v.extra", "mlp_head.2.weight"])
def test_an_added_tensor_is_named(original_tensors, small_config, name):
    tensors = original_tensors() | {name: np.zeros(64, np.float32)}
    with pytest.raises(InputError, match=rf"^x.pth: tensor {name} has no place in the model; "):
        params_from_tensors(tensors, "original", small_config, "x.pth")


def test_several_added_tensors_are_counted(original_tensors, small_config):
    tensors = original_tensors() | {f"v.extra{i}": np.zeros(1, np.float32) for i in range(3)}
    with pytest.raises(InputError, match=r"tensor v\.extra0 has no place .* nor have 2 others"):
        params_from_tensors(tensors, "original", small_config, "x.pth")


def test_hugging_faces_format_ignores_nothing(original_tensors, small_config):
    params, _ = params_from_tensors(original_tensors(), "original", small_config, "x.pth")
    tensors = tensors_from_params(params, "huggingface")
    tensors["v.head.weight"] = np.zeros((10, 64), np.float32)
    with pytest.raises(InputError, match=r"v\.head\.weight has no place"):
        params_from_tensors(tensors, "huggingface", small_config, "x.safetensors")


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float64_is_rounded_to_float32_or_refused_if_too_large(value):
    tensors = {"t": np.array([value])}
    if abs(value) < 3.4e38:
        assert finite_float32(tensors, "t", "x.pth").dtype == np.float32
    elif abs(value) > 3.41e38:
        with pytest.raises(InputError, match="tensor t holds NaN or infinite"):
            finite_float32(tensors, "t", "x.pth")
