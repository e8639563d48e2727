"""The model's logits match the original's for every published configuration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rule
from flax import nnx

from ast_jax.audio.feature_extractor import ASTFeatureExtractor, pad_or_cut
from ast_jax.checkpoint.torch_names import params_from_tensors
from ast_jax.models.ast import ASTForAudioClassification, graphdef
from ast_jax.models.config import ASTConfig

NAMES = ["audioset_10_10", "audioset_16_16", "speechcommands_10_10", "tiny224_esc"]


def load(entry):
    """Returns configuration and parameters of a golden entry, with weights from the rule."""
    kwargs = entry["kwargs"]
    config = ASTConfig.from_size(
        kwargs["model_size"],
        frequency_stride=kwargs["fstride"],
        time_stride=kwargs["tstride"],
        max_length=kwargs["input_tdim"],
        num_labels=kwargs["label_dim"],
    )
    tensors = {
        name: rule.tensor(name, tuple(shape), entry["seed"])
        for name, shape in entry["tensors"].items()
    }
    params, _ = params_from_tensors(tensors, "original", config, entry["name"])
    return config, params


def inputs(golden, entry, config):
    log_mels = [
        pad_or_cut(golden["arrays"][f"fbank_{clip}"], config.max_length) for clip in entry["clips"]
    ]
    return ASTFeatureExtractor(mean=entry["mean"], std=entry["std"]).normalize(np.stack(log_mels))


@pytest.mark.parametrize("name", NAMES)
def test_logits_match_the_original(golden, within, name):
    entry = next(entry for entry in golden["models"] if entry["name"] == name)
    config, params = load(entry)
    # The parameters are an argument, as constants would become part of the program.
    forward = jax.jit(lambda params, x: nnx.merge(graphdef(config), params)(x))
    logits = forward(params, inputs(golden, entry, config))
    error = np.abs(logits - golden["arrays"][f"logits_{name}"])
    within(f"logits of {name} against the original", error.max(), 1e-4)


def test_waveform_to_logits_matches_the_original(golden):
    entry = next(entry for entry in golden["models"] if entry["name"] == "tiny224_esc")
    config, params = load(entry)
    extractor = ASTFeatureExtractor(max_length=512, mean=entry["mean"], std=entry["std"])
    waveforms = [golden["arrays"][f"waveform_{clip}"] / 32768.0 for clip in entry["clips"]]
    input_values = extractor([x - x.mean() for x in waveforms], 16000)
    logits = ASTForAudioClassification.from_params(config, params)(input_values)
    # float32 errors in the log-mel reach 1e-2 in bands that a pure tone leaves silent.
    np.testing.assert_allclose(logits, golden["arrays"]["logits_tiny224_esc"], rtol=0, atol=1e-3)


def test_bfloat16_has_float32_parameters_and_close_logits(golden):
    entry = next(entry for entry in golden["models"] if entry["name"] == "tiny224_esc")
    config, params = load(entry)
    expected = golden["arrays"]["logits_tiny224_esc"]
    model = ASTForAudioClassification.from_params(config.replace(dtype="bfloat16"), params)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(nnx.split(model)[1])}
    assert dtypes == {jnp.dtype("float32")}
    input_values = inputs(golden, entry, config)
    query = model.ast.encoder.layers.attention.qkv
    assert query.dtype == jnp.bfloat16
    logits = model(input_values)
    assert logits.dtype == jnp.float32
    # bfloat16 has 8 bits: 2^-8 of the logits' size, which is about 4, through 12 layers.
    error = np.abs(logits - expected)
    assert 1e-4 < error.max() < 0.15
