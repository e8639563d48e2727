"""Parity with transformers' classes, run live with the same random weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint
from ast_jax.checkpoint.load import read_checkpoint
from ast_jax.checkpoint.torch_read import read_torch_checkpoint
from ast_jax.checkpoint.torch_write import write_huggingface
from ast_jax.errors import InputError
from ast_jax.models.ast import ASTForAudioClassification

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# Of checkpoints without preprocessor_config.json.
pytestmark = pytest.mark.filterwarnings("ignore:.*mean .* and std .* are used:UserWarning")

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 80,
    "max_length": 100,
    "num_labels": 6,
}
GEOMETRIES = {
    "as published": {"max_length": 128},
    "other strides": {"frequency_stride": 16, "time_stride": 7},
    "other mel bins and length": {"num_mel_bins": 40, "max_length": 61},
    "other patches": {"patch_size": 8, "num_mel_bins": 32, "frequency_stride": 5},
    "no query, key or value bias": {"qkv_bias": False},
    "another epsilon": {"layer_norm_eps": 1e-3},
}


def theirs(model_class, **fields):
    """Returns a transformers model with all parameters random, also those initialized to 0 or 1."""
    config = transformers.ASTConfig(**SMALL | fields, attn_implementation="eager")
    model = model_class(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3 if parameter.ndim < 2 else 0.12, generator=generator)
            if "layernorm" in name and name.endswith("weight"):
                parameter.add_(1)
    return model


def inputs_for(config):
    shape = (2, config.max_length, config.num_mel_bins)
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


@pytest.fixture
def assert_close(within):
    def check(ours, expected, what="logits"):
        assert ours.dtype == jnp.float32
        assert ours.shape == expected.shape
        error = np.abs(np.asarray(ours) - expected.numpy()).max()
        within(f"{what} against Hugging Face's, random weights", error, 1e-4)

    return check


def assert_same_encoder(assert_close, ours, their_model, input_values):
    @nnx.jit
    def outputs(model, x):
        return model(x, output_hidden_states=True, output_attentions=True)

    out = outputs(ours.ast, input_values)
    encoder = getattr(their_model, "audio_spectrogram_transformer", their_model)
    with torch.no_grad():
        expected = encoder(
            torch.from_numpy(input_values), output_hidden_states=True, output_attentions=True
        )
    assert len(out.hidden_states) == len(expected.hidden_states) == 4
    for actual, wanted in zip(out.hidden_states, expected.hidden_states, strict=True):
        assert_close(actual, wanted, "hidden states")
    assert len(out.attentions) == len(expected.attentions) == 3
    for actual, wanted in zip(out.attentions, expected.attentions, strict=True):
        assert_close(actual, wanted, "attention weights")
    assert_close(out.last_hidden_state, expected.last_hidden_state, "hidden states")
    assert_close(out.pooler_output, expected.pooler_output, "pooled output")


def logits(model, input_values):
    with torch.no_grad():
        return model(torch.from_numpy(input_values)).logits


@pytest.mark.parametrize("fields", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_all_outputs_match_hugging_face(assert_close, tmp_path, fields):
    model = theirs(transformers.ASTForAudioClassification, **fields)
    model.save_pretrained(tmp_path)
    ours = ASTForAudioClassification.from_pretrained(tmp_path)
    input_values = inputs_for(model.config)
    assert_same_encoder(assert_close, ours, model, input_values)
    assert_close(ours(jnp.asarray(input_values)), logits(model, input_values))


def test_a_model_without_a_classifier_matches_hugging_face(assert_close, tmp_path):
    model = theirs(transformers.ASTModel)
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"^{tmp_path}: has no classification head; .*num_labels"):
        ASTForAudioClassification.from_pretrained(tmp_path)
    ours = ASTForAudioClassification.from_pretrained(tmp_path, num_labels=4)
    assert_same_encoder(assert_close, ours, model, inputs_for(model.config))
    assert ours(jnp.zeros((1, 100, 128))).shape == (1, 4)


def test_a_file_of_a_folder_is_described_by_the_json_files_beside_it(tmp_path):
    model = theirs(transformers.ASTForAudioClassification, num_attention_heads=2, max_length=128)
    model.save_pretrained(tmp_path)
    ASTFeatureExtractor(mean=-5.0, std=3.0, max_length=128).save_pretrained(tmp_path)
    found = read_torch_checkpoint(tmp_path / "model.safetensors")
    expected = read_torch_checkpoint(tmp_path)
    assert found.guesses == expected.guesses == []
    assert found.checkpoint.config == expected.checkpoint.config
    assert found.checkpoint.feature_extractor.mean == -5.0


def test_a_state_dict_with_transformers_module_names_is_read(tmp_path):
    model = theirs(transformers.ASTForAudioClassification, max_length=128)
    names = list(model.state_dict())
    assert any(name.endswith(".layers.2.attention.q_proj.weight") for name in names)
    model.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    expected = read_torch_checkpoint(tmp_path).checkpoint.params
    (tmp_path / "model.safetensors").unlink()
    jax.tree.map(
        np.testing.assert_array_equal, read_torch_checkpoint(tmp_path).checkpoint.params, expected
    )


def test_a_bfloat16_model_is_read_exactly_and_computed_in_float32(assert_close, tmp_path):
    model = theirs(transformers.ASTForAudioClassification).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    ours = ASTForAudioClassification.from_pretrained(tmp_path)
    input_values = inputs_for(model.config)
    assert_close(ours(jnp.asarray(input_values)), logits(model.float(), input_values))


# ---- round trips


def test_hugging_face_loads_our_folder_and_gives_the_same_logits(
    assert_close, tmp_path, original_tensors, save_torch
):
    path = save_torch(original_tensors(), tmp_path / "x.pth", prefix="module.")
    checkpoint = read_checkpoint(path)
    write_huggingface(tmp_path / "folder", checkpoint)
    model, report = transformers.ASTForAudioClassification.from_pretrained(
        tmp_path / "folder", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ours = ASTForAudioClassification.from_params(checkpoint.config, checkpoint.params)
    input_values = inputs_for(model.config)
    # Although the original's head has an epsilon of 1e-5, and theirs the encoder's 1e-6.
    assert_close(ours(jnp.asarray(input_values)), logits(model.eval(), input_values))


def test_a_hugging_face_folder_round_trips_exactly(tmp_path):
    model = theirs(transformers.ASTForAudioClassification, max_length=128)
    model.save_pretrained(tmp_path / "theirs")
    write_huggingface(tmp_path / "ours", read_checkpoint(tmp_path / "theirs"))
    before, after = (load_file(tmp_path / x / "model.safetensors") for x in ("theirs", "ours"))
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].tobytes() == after[name].tobytes(), name
    config = transformers.ASTConfig.from_pretrained(tmp_path / "ours")
    for field in ("hidden_size", "max_length", "time_stride", "layer_norm_eps", "num_labels"):
        assert getattr(config, field) == getattr(model.config, field)


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero:UserWarning")
def test_hugging_face_loads_our_labels_and_feature_extractor(tmp_path, small_checkpoint):
    write_huggingface(tmp_path / "folder", small_checkpoint)
    config = transformers.ASTConfig.from_pretrained(tmp_path / "folder")
    assert config.id2label == small_checkpoint.config.id2label
    assert config.label2id == {name: i for i, name in config.id2label.items()}
    extractor = transformers.ASTFeatureExtractor.from_pretrained(tmp_path / "folder")
    expected = small_checkpoint.feature_extractor
    for field in ("mean", "std", "max_length", "num_mel_bins", "sampling_rate", "do_normalize"):
        assert getattr(extractor, field) == getattr(expected, field)
    assert ASTFeatureExtractor.from_pretrained(tmp_path / "folder") == expected


def test_a_checkpoint_without_a_head_is_written_as_an_ast_model(tmp_path, small_checkpoint):
    config, extractor, params = small_checkpoint
    headless = Checkpoint(config, extractor, {"ast": params["ast"]})
    write_huggingface(tmp_path / "folder", headless)
    model, report = transformers.ASTModel.from_pretrained(
        tmp_path / "folder", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.architectures == ["ASTModel"]


def test_the_compute_dtype_is_not_written_as_torch_dtype(tmp_path, small_checkpoint):
    config = small_checkpoint.config.replace(dtype="bfloat16")
    write_huggingface(tmp_path / "folder", small_checkpoint._replace(config=config))
    model = transformers.ASTForAudioClassification.from_pretrained(tmp_path / "folder")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
