import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ast_jax
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.config import DataConfig, TrainConfig
from ast_jax.errors import InputError
from ast_jax.models.ast import ASTForAudioClassification, init_params, param_shapes
from ast_jax.models.config import ASTConfig
from ast_jax.models.int8 import STEPS, Int8Linear, quantize

CONFIG = ASTConfig(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=128,
    frequency_stride=16,
    time_stride=16,
    max_length=64,
    num_mel_bins=32,
    num_labels=5,
)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), gain=st.sampled_from([1e-20, 1e-3, 1.0, 1e6]))
def test_a_product_is_off_by_half_a_step_of_each_number_at_most(seed, gain):
    rng = np.random.default_rng(seed)
    x = gain * rng.standard_normal((7, 33)) * rng.choice([0, 1e-2, 1], (7, 1))  # some all zero
    kernel = rng.standard_normal((33, 5))
    layer = Int8Linear(33, 5, use_bias=True)
    largest = jnp.abs(kernel).max(axis=0, keepdims=True)
    layer.kernel[...], layer.scale[...] = quantize(jnp.asarray(kernel, jnp.float32), largest)
    layer.bias[...] = jnp.arange(5.0)
    # Half a step of x times the kernel, of the kernel times x, and of both.
    half_x = np.abs(x).max(1, keepdims=True) / STEPS / 2 * np.ones_like(x)
    half_k = np.abs(kernel).max(0, keepdims=True) / STEPS / 2 * np.ones_like(kernel)
    bound = half_x @ np.abs(kernel) + np.abs(x) @ half_k + half_x @ half_k
    expected = x @ kernel + np.arange(5)
    error = np.abs(layer(jnp.asarray(x, jnp.float32)) - expected)
    assert (error <= bound + 1e-5 * np.abs(expected)).all()


def test_rounded_numbers_use_all_steps_and_sums_are_exact():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((4, 3072)), jnp.float32)
    rounded, scale = quantize(x, jnp.abs(x).max(axis=1, keepdims=True))
    assert rounded.dtype == jnp.int8
    np.testing.assert_array_equal(np.abs(rounded).max(axis=1), STEPS)
    layer = Int8Linear(3072, 1, use_bias=False)
    layer.kernel[...] = jnp.full((3072, 1), STEPS, jnp.int8)
    exact = np.asarray(rounded, np.int64).sum(axis=1, keepdims=True) * STEPS
    np.testing.assert_allclose(layer(rounded * scale), exact * np.asarray(scale), rtol=1e-6)


def test_logits_stay_near_those_in_float32_and_parameters_are_read_as_they_are():
    params = jax.tree.map(lambda p: p * 2, init_params(CONFIG))
    clips = jax.random.normal(jax.random.key(1), (4, 64, 32))
    rounded = CONFIG.replace(dtype="int8")
    assert jax.tree.leaves(param_shapes(rounded)) == jax.tree.leaves(param_shapes(CONFIG))
    expected = ASTForAudioClassification.from_params(CONFIG, params)(clips)
    model = ASTForAudioClassification.from_params(rounded, params)
    error = np.abs(model(clips) - expected).max() / np.ptp(expected)
    assert 1e-5 < error < 2e-2
    kernels = model.ast.encoder.layers.mlp.fc1
    assert kernels.kernel[...].dtype == jnp.int8
    assert kernels.scale[...].shape == (2, 1, 128)


def test_a_checkpoint_classifies_in_int8_when_asked_to(tmp_path):
    extractor = ASTFeatureExtractor(max_length=64, num_mel_bins=32)
    save_checkpoint(tmp_path / "model", Checkpoint(CONFIG, extractor, init_params(CONFIG)))
    waveform = np.random.default_rng(0).standard_normal(10_400).astype(np.float32) / 10
    scores = {}
    for dtype in ("float32", "int8"):
        found = ast_jax.load(tmp_path / "model", dtype=dtype)(waveform, sampling_rate=16000)
        scores[dtype] = {entry["label"]: entry["score"] for entry in found}
    assert scores["int8"] == pytest.approx(scores["float32"], abs=0.02)
    assert scores["int8"] != scores["float32"]


def test_it_is_not_trained_in():
    config = TrainConfig(
        workdir="runs/x", model=CONFIG.replace(dtype="int8"), data=DataConfig(kind="synthetic")
    )
    with pytest.raises(InputError, match=r"model\.dtype is int8, which cannot be trained in"):
        config.validate()
