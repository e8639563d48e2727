import json

import jax.numpy as jnp
import numpy as np
import pytest
import rule
from flax import nnx
from safetensors.numpy import save_file

from ast_jax.audio.feature_extractor import pad_or_cut
from ast_jax.checkpoint.torch_names import IGNORED
from ast_jax.checkpoint.torch_read import read_torch_checkpoint
from ast_jax.checkpoint.torch_write import write_huggingface
from ast_jax.errors import InputError
from ast_jax.labels import AUDIOSET, ESC50, class_names
from ast_jax.models.ast import ASTForAudioClassification

pytest.importorskip("torch")

# Of checkpoints without preprocessor_config.json.
pytestmark = pytest.mark.filterwarnings("ignore:.*mean .* and std .* are used:UserWarning")

# ---- parity with the original's golden outputs


def golden_logits(model, golden, entry):
    """Returns the logits for an entry's clip, with a head from the golden rule."""
    width, classes = model.config.hidden_size, entry["label_dim"]
    head, seed = model.classifier, entry["head_seed"]
    head.layernorm.scale[...] = rule.tensor("mlp_head.0.weight", (width,), seed)
    head.layernorm.bias[...] = rule.tensor("mlp_head.0.bias", (width,), seed)
    head.dense.kernel[...] = rule.tensor("mlp_head.1.weight", (classes, width), seed).T
    head.dense.bias[...] = rule.tensor("mlp_head.1.bias", (classes,), seed)
    log_mel = pad_or_cut(golden["arrays"][f"fbank_{entry['clip']}"], entry["input_tdim"])
    input_values = (log_mel[None] - entry["mean"]) / (2 * entry["std"])
    return np.asarray(nnx.jit(lambda model, x: model(x))(model, input_values))


def assert_golden(within, model, golden, entry, kind):
    expected = golden["arrays"][f"{kind}_{entry['key']}_pos_embed"]
    positions = np.asarray(model.ast.embeddings.position_embeddings[...])[:, ::7, ::16]
    assert positions.shape == expected.shape
    error = np.abs(positions - expected).max()
    within(f"positions of {kind} against the original's", error, 1e-6)
    logits = golden_logits(model, golden, entry)
    assert logits.dtype == np.float32
    expected = golden["arrays"][f"{kind}_{entry['key']}_logits"]
    within(f"logits of {kind} against the original", np.abs(logits - expected).max(), 1e-4)


def geometry(entry):
    return {
        "frequency_stride": entry["fstride"],
        "time_stride": entry["tstride"],
        "num_mel_bins": entry["input_fdim"],
        "max_length": entry["input_tdim"],
        "num_labels": entry["label_dim"],
    }


@pytest.fixture(scope="module")
def audioset_file(golden, save_torch, tmp_path_factory):
    """Returns a file like a published AudioSet checkpoint: 350 MB, written once."""
    source = golden["audioset_finetune_source"]
    tensors = {
        name: rule.tensor(name, tuple(shape), source["seed"])
        for name, shape in source["tensors"].items()
    }
    path = tmp_path_factory.mktemp("audioset") / "audioset.pth"
    save_torch(tensors, path, prefix="module.")
    yield path
    path.unlink()


@pytest.mark.parametrize("index", [0, 1])
def test_an_audioset_checkpoint_is_adapted_as_in_the_original(golden, within, audioset_file, index):
    entry = golden["audioset_finetune"][index]
    model = ASTForAudioClassification.from_pretrained(audioset_file, **geometry(entry))
    assert_golden(within, model, golden, entry, "finetune")


@pytest.mark.parametrize("index", [0, 1])
def test_an_imagenet_checkpoint_becomes_an_ast_as_in_the_original(
    golden, within, save_torch, tmp_path, index
):
    entry = golden["imagenet_init"][index]
    tensors = {
        name: rule.tensor(name, tuple(shape), entry["seed"])
        for name, shape in entry["tensors"].items()
    }
    path = save_torch(tensors, tmp_path / "deit.pth", wrap="model")
    model = ASTForAudioClassification.from_pretrained(path, **geometry(entry))
    path.unlink()
    assert_golden(within, model, golden, entry, "imagenet")


# ---- original files


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("imagenet_heads", [False, True])
def test_an_original_file_is_read(
    original_tensors, small_config, save_torch, tmp_path, prefix, imagenet_heads
):
    tensors = original_tensors(imagenet_heads=imagenet_heads)
    path = save_torch(tensors, tmp_path / "x.pth", prefix)
    checkpoint, notes, _ = read_torch_checkpoint(path)
    assert checkpoint.config == small_config
    kernel = checkpoint.params["ast"]["embeddings"]["patch_projection"]["kernel"]
    weight = tensors["v.patch_embed.proj.weight"]
    np.testing.assert_array_equal(kernel[3, 7, 0, 11], weight[11, 0, 3, 7])
    listed = f"ignored tensors: {', '.join(IGNORED) if imagenet_heads else 'none'}"
    assert listed in notes


def test_the_notes_list_what_was_inferred(original_tensors, save_torch, tmp_path):
    tensors = original_tensors()
    path = save_torch(tensors, tmp_path / "x.pth")
    _, notes, guesses = read_torch_checkpoint(path)
    notes = "\n".join(notes + guesses)
    assert notes.startswith(f"{path}: {len(tensors)} tensors, named as the original's")
    for inferred in ("hidden_size 64", "num_hidden_layers 2", "frequency_stride 10"):
        assert inferred in notes
    assert "time_stride 10, max_length 128, num_mel_bins 128, num_labels 5 (12 x 12" in notes
    assert "mean -4.2677393 and std 4.5689974 of audioset are used" in notes


def test_a_benchmarks_number_of_classes_sets_its_labels_and_statistics(
    original_tensors, save_torch, tmp_path
):
    path = save_torch(original_tensors(classes=50), tmp_path / "x.pth")
    config, extractor, _ = read_torch_checkpoint(path).checkpoint
    assert config.labels == list(class_names("esc50"))
    assert (extractor.mean, extractor.std) == (ESC50.mean, ESC50.std)
    assert config.problem_type == "single_label_classification"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["x.pth", "x.safetensors"])
def test_half_precision_files_convert_to_float32_exactly(original_tensors, tmp_path, dtype, kind):
    import safetensors.torch
    import torch

    half = getattr(torch, dtype)
    tensors = {k: torch.from_numpy(v).to(half) for k, v in original_tensors().items()}
    save = torch.save if kind == "x.pth" else safetensors.torch.save_file
    save(tensors, tmp_path / kind)
    params = read_torch_checkpoint(tmp_path / kind).checkpoint.params
    bias = params["classifier"]["dense"]["bias"]
    assert bias.dtype == np.float32
    np.testing.assert_array_equal(bias, tensors["mlp_head.1.bias"].float().numpy())
    kernel = params["ast"]["encoder"]["layers"]["mlp"]["fc1"]["kernel"][1]
    weight = tensors["v.blocks.1.mlp.fc1.weight"].float().numpy()
    np.testing.assert_array_equal(kernel, weight.T)


# ---- ImageNet files


def test_a_distilled_deit_is_read_without_a_head(deit_tensors, save_torch, tmp_path):
    tensors = deit_tensors()
    path = save_torch(tensors, tmp_path / "deit.pth", wrap="model")
    (config, _, params), notes, _ = read_torch_checkpoint(path, target_fields={"max_length": 256})
    assert "classifier" not in params
    assert config.grid == (12, 25)
    assert params["ast"]["embeddings"]["position_embeddings"].shape == (1, 302, 64)
    kernel = params["ast"]["embeddings"]["patch_projection"]["kernel"][:, :, 0]
    summed = tensors["patch_embed.proj.weight"].sum(axis=1)
    np.testing.assert_allclose(kernel, summed.transpose(1, 2, 0), rtol=1e-6)
    ignored = "ignored tensors: head.weight, head.bias, head_dist.weight, head_dist.bias"
    assert ignored in notes
    assert "an ImageNet checkpoint to start a training from: it has no classifier" in notes


def test_a_half_precision_deit_is_summed_and_resized_in_float32(deit_tensors, tmp_path):
    import torch

    halves = {k: torch.from_numpy(v).half() for k, v in deit_tensors().items()}
    torch.save(halves, tmp_path / "half.pth")
    torch.save({k: v.float() for k, v in halves.items()}, tmp_path / "full.pth")
    half, full = (
        read_torch_checkpoint(tmp_path / name).checkpoint.params["ast"]["embeddings"]
        for name in ("half.pth", "full.pth")
    )
    for name in ("position_embeddings", "cls_token"):
        np.testing.assert_array_equal(half[name], full[name])
    kernels = (x["patch_projection"]["kernel"] for x in (half, full))
    np.testing.assert_array_equal(*kernels)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("pos_embed", None, "tensor pos_embed is missing"),
        ("pos_embed", np.zeros((1, 13, 64)), "pos_embed has shape .* a square number"),
        ("pos_embed", np.zeros(3), "pos_embed has shape"),
        ("pos_embed", np.full((1, 51, 64), np.nan), "pos_embed holds NaN"),
        ("patch_embed.proj.weight", np.zeros((64, 1, 16, 16)), "not the three channels"),
        ("patch_embed.proj.weight", np.full((64, 3, 16, 16), np.inf), "weight holds NaN or inf"),
        ("patch_embed.proj.weight", np.zeros((64, 3, 16)), "proj.weight has shape"),
        ("norm.weight", None, "tensor norm.weight is missing"),
        ("dist_token", None, "tensor dist_token is missing"),
        ("mlp_head.1.bias", np.zeros(3), "tensor mlp_head.1.bias has no place"),
    ],
)
def test_an_incomplete_deit_is_refused(deit_tensors, save_torch, tmp_path, name, value, complaint):
    tensors = deit_tensors()
    tensors.pop(name, None)
    if value is not None:
        tensors[name] = value
    path = save_torch(tensors, tmp_path / "deit.pth", wrap="model")
    with pytest.raises(InputError, match=f"^{path}: .*{complaint}"):
        read_torch_checkpoint(path)


# ---- Hugging Face folders


@pytest.fixture
def folder(tmp_path, small_checkpoint):
    """Returns a Hugging Face folder with five named classes that a test can change."""
    write_huggingface(tmp_path / "folder", small_checkpoint)
    return tmp_path / "folder"


def rewrite(file, **entries):
    content = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def test_a_folders_labels_and_statistics_are_read(folder):
    config, extractor, _ = read_torch_checkpoint(folder).checkpoint
    assert config.labels == ["rain", "wind", "sea", "bird", "owl"]
    assert (extractor.mean, extractor.std) == (-3.0, 2.0)


def test_a_folder_with_pytorch_model_bin_is_read(folder, save_torch):
    from safetensors.numpy import load_file

    save_torch(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    expected = read_torch_checkpoint(folder).checkpoint.params
    (folder / "model.safetensors").unlink()
    params = read_torch_checkpoint(folder).checkpoint.params
    actual = params["ast"]["encoder"]["layers"]["attention"]["qkv"]["kernel"]
    np.testing.assert_array_equal(
        actual, expected["ast"]["encoder"]["layers"]["attention"]["qkv"]["kernel"]
    )


def test_a_folder_without_the_extractors_file_notes_its_assumptions(folder):
    (folder / "preprocessor_config.json").unlink()
    (_, extractor, _), _, guesses = read_torch_checkpoint(folder)
    assert (extractor.mean, extractor.max_length) == (AUDIOSET.mean, 128)
    assert any(note.startswith("no preprocessor_config.json: mean") for note in guesses)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_the_storage_dtype_is_not_the_compute_dtype(folder, dtype):
    rewrite(folder / "config.json", dtype=dtype)
    assert read_torch_checkpoint(folder).checkpoint.config.dtype == "float32"


def test_audiosets_labels_set_the_multi_label_problem_type(original_tensors, save_torch, tmp_path):
    path = save_torch(original_tensors(classes=527), tmp_path / "x.pth")
    write_huggingface(tmp_path / "folder", read_torch_checkpoint(path).checkpoint)
    file = tmp_path / "folder" / "config.json"
    for message, meant in [
        (..., "multi_label_classification"),
        (None, "multi_label_classification"),
        ("single_label_classification", "single_label_classification"),
    ]:
        rewrite(file, problem_type=message)
        config = read_torch_checkpoint(tmp_path / "folder").checkpoint.config
        assert config.problem_type == meant


def test_a_single_safetensors_has_hugging_faces_epsilon(folder):
    file = (folder / "model.safetensors").rename(folder / "renamed.safetensors")
    config = read_torch_checkpoint(file).checkpoint.config
    assert config.layer_norm_eps == config.head_layer_norm_eps == 1e-12
    assert (config.num_hidden_layers, config.max_length, config.num_labels) == (2, 128, 5)


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ({"model_type": "wav2vec2"}, "model_type is 'wav2vec2'"),
        ({"hidden_size": "64"}, "hidden_size is '64'; it must be a whole number from 1 to 1000000"),
        ({"hidden_size": 64.0}, "hidden_size is 64.0; it must be a whole number from 1 to 1000000"),
        ({"time_stride": 0}, "time_stride is 0; it must be a whole number from 1 to 1000000"),
        ({"qkv_bias": "yes"}, "qkv_bias is 'yes'; it must be True or False"),
        ({"layer_norm_eps": -1}, "layer_norm_eps is -1; it must be a number from 1e-30 to 1"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label must name the classes 0 to 1"),
        ({"id2label": {"a": "b"}}, "id2label must map class indices to names"),
        ({"id2label": {"0": None}}, "id2label must map class indices to names"),
        ({"id2label": {"0": "\udcff"}}, "which is no valid Unicode"),
        ({"id2label": ["a", "b"]}, "id2label must map class indices to names"),
        (
            {"num_attention_heads": 5},
            "hidden_size 64 is not a multiple of num_attention_heads 5; set",
        ),
    ],
)
def test_a_malformed_configuration_names_the_field(folder, entries, complaint):
    rewrite(folder / "config.json", **entries)
    with pytest.raises(InputError) as caught:
        read_torch_checkpoint(folder)
    assert str(caught.value).startswith(f"{folder / 'config.json'}: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "tensor"),
    [
        (
            {"num_hidden_layers": 3},
            "audio_spectrogram_transformer.encoder.layer.2.layernorm_before",
        ),
        ({"num_hidden_layers": 1}, "audio_spectrogram_transformer.encoder.layer.1"),
        ({"intermediate_size": 100}, "intermediate.dense.weight"),
        ({"time_stride": 16}, "audio_spectrogram_transformer.embeddings.position_embeddings"),
        ({"id2label": {"0": "a", "1": "b"}}, "classifier.dense.weight"),
        ({"qkv_bias": False}, "attention.attention.key.bias"),
    ],
)
def test_a_configuration_of_another_model_names_the_tensor(folder, entries, tensor):
    rewrite(folder / "config.json", **entries)
    with pytest.raises(InputError) as caught:
        read_torch_checkpoint(folder)
    assert str(caught.value).startswith(f"{folder / 'model.safetensors'}: tensor ")
    assert tensor in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"nonsense"])
def test_a_configuration_that_is_no_json_object_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=f"^{folder / 'config.json'}: "):
        read_torch_checkpoint(folder)


def test_an_incomplete_folder_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        read_torch_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=f"^{folder}: no checkpoint: neither one of ast_jax nor"):
        read_torch_checkpoint(folder)


def test_an_extractor_for_another_input_names_the_field(folder):
    rewrite(folder / "preprocessor_config.json", max_length=1024)
    with pytest.raises(InputError) as caught:
        read_torch_checkpoint(folder)
    assert str(caught.value) == (
        f"{folder}: max_length is 128 for the model and 1024 for the feature extractor; correct "
        f"one of them"
    )


def test_a_flag_that_contradicts_the_folder_is_refused(folder):
    with pytest.raises(InputError, match="time_stride is 10, not 16; leave --time-stride out"):
        read_torch_checkpoint(folder, {"time_stride": 16})


def test_safetensors_are_preferred_to_a_pickle(folder):
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert read_torch_checkpoint(folder).checkpoint.config.num_labels == 5


def test_original_names_in_a_safetensors_are_read(original_tensors, small_config, tmp_path):
    save_file(original_tensors(), tmp_path / "x.safetensors")
    checkpoint = read_torch_checkpoint(tmp_path / "x.safetensors").checkpoint
    assert checkpoint.config == small_config
    model = ASTForAudioClassification.from_params(*checkpoint[::2])
    assert model(jnp.zeros((1, 128, 128))).shape == (1, 5)
