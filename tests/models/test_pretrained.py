"""Models and configurations saved for ast_jax and for Hugging Face, and loaded by both."""

import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.errors import InputError
from ast_jax.models.ast import ASTForAudioClassification, ASTModel, init_params
from ast_jax.models.config import ASTConfig

CONFIG = ASTConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    frequency_stride=16,
    time_stride=16,
    max_length=64,
    num_mel_bins=32,
    num_labels=3,
    id2label={0: "dog", 1: "rain", 2: "clé"},
    problem_type="multi_label_classification",
    layer_norm_eps=1e-5,
)
EXTRACTOR = ASTFeatureExtractor(max_length=64, num_mel_bins=32, mean=-3.0, std=2.0)
CLIPS = np.random.default_rng(0).standard_normal((2, 64, 32), dtype=np.float32)
FILES = ["config.json", "model.safetensors", "preprocessor_config.json"]
# Models are loaded without their feature extractor here.
pytestmark = pytest.mark.filterwarnings("ignore:.*mean .* and std .* are used:UserWarning")


@pytest.fixture(scope="module")
def model():
    params = jax.tree.map(lambda p: p * 3, init_params(CONFIG))
    return ASTForAudioClassification.from_params(CONFIG, params)


@nnx.jit
def apply(model, x):
    return model(x)


def params_of(model):
    return nnx.to_pure_dict(nnx.split(model)[1])


def assert_same(actual, expected):
    assert actual.config == expected.config
    jax.tree.map(np.testing.assert_array_equal, params_of(actual), params_of(expected))


# ---- a model's folder


def test_a_saved_model_loads_without_torch(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    model.save_pretrained(tmp_path / "new" / "folder", feature_extractor=EXTRACTOR)
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == FILES
    assert_same(ASTForAudioClassification.from_pretrained(tmp_path / "new" / "folder"), model)
    assert ASTFeatureExtractor.from_pretrained(tmp_path / "new" / "folder") == EXTRACTOR
    assert ASTConfig.from_pretrained(tmp_path / "new" / "folder") == CONFIG


def test_transformers_loads_a_saved_model_with_the_same_logits(model, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model.save_pretrained(tmp_path, EXTRACTOR)
    theirs, report = transformers.ASTForAudioClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (theirs.config.id2label, theirs.config.label2id) == (CONFIG.id2label, CONFIG.label2id)
    with torch.no_grad():
        logits = theirs.eval()(torch.from_numpy(CLIPS)).logits.numpy()
    np.testing.assert_allclose(apply(model, CLIPS), logits, atol=1e-4)
    assert transformers.AutoFeatureExtractor.from_pretrained(tmp_path).mean == -3.0


def test_a_model_of_half_precision_kernels_is_saved_as_float32(model, tmp_path):
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params_of(model))
    config = CONFIG.replace(dtype="bfloat16")
    ASTForAudioClassification.from_params(config, half).save_pretrained(tmp_path)
    loaded = ASTForAudioClassification.from_pretrained(tmp_path)
    assert loaded.config == CONFIG  # Hugging Face's dtype is that of the file
    jax.tree.map(np.testing.assert_array_equal, params_of(loaded), half)


def test_parameters_changed_in_place_are_saved(tmp_path):
    changed = ASTForAudioClassification(CONFIG, rngs=nnx.Rngs(0))
    changed.classifier.dense.bias[...] += 1
    changed.save_pretrained(tmp_path)
    loaded = ASTForAudioClassification.from_pretrained(tmp_path)
    assert_same(loaded, changed)
    assert loaded.classifier.dense.bias.min() > 0.5


# ---- existing folders


def test_saving_again_replaces_the_files_and_keeps_the_extractors(model, tmp_path):
    EXTRACTOR.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    other = ASTForAudioClassification.from_params(CONFIG, init_params(CONFIG, seed=7))
    other.save_pretrained(tmp_path)
    assert sorted(os.listdir(tmp_path)) == FILES
    assert_same(ASTForAudioClassification.from_pretrained(tmp_path), other)
    assert ASTFeatureExtractor.from_pretrained(tmp_path) == EXTRACTOR


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors.index.json", "config"])
def test_a_folder_with_other_files_is_refused(model, tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"^{tmp_path}: holds other files .* '{name}'; choose a"):
        model.save_pretrained(tmp_path)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("failing", FILES)
def test_a_failed_save_changes_nothing(model, tmp_path, monkeypatch, failing, exists):
    folder = tmp_path / "folder"
    if exists:
        model.save_pretrained(folder, EXTRACTOR)
    before = {file: file.read_bytes() for file in folder.glob("*")}
    write_bytes = Path.write_bytes

    def write(path, content):
        if failing in path.name:
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    other = ASTForAudioClassification.from_params(CONFIG, init_params(CONFIG, seed=7))
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        other.save_pretrained(folder, EXTRACTOR)
    assert {file: file.read_bytes() for file in folder.glob("*")} == before
    assert list(tmp_path.iterdir()) == ([folder] if exists else [])


def test_what_cannot_be_loaded_again_is_not_saved(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: is a file; give the path of a folder"):
        model.save_pretrained(tmp_path / "file")
    with pytest.raises(InputError, match="is remote; write to a folder"):
        model.save_pretrained("gs://bucket/model")
    with pytest.raises(InputError, match="max_length is 64 for the model and 1024 for the feature"):
        model.save_pretrained(tmp_path / "x", ASTFeatureExtractor(num_mel_bins=32))
    with pytest.raises(InputError, match="feature_extractor is a dict; give an ASTFeature"):
        model.save_pretrained(tmp_path / "x", EXTRACTOR.to_dict())
    EXTRACTOR.save_pretrained(tmp_path / "y")
    longer = ASTForAudioClassification(CONFIG.replace(max_length=96), rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="max_length is 96 for the model and 64 for the feature"):
        longer.save_pretrained(tmp_path / "y")
    longer.classifier.dense.bias = nnx.Param(jnp.zeros(7))
    with pytest.raises(InputError, match=r"x: parameter classifier/dense/bias has shape \(7,\), "):
        longer.save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


# ---- without a classifier


def test_a_model_without_a_classifier_round_trips(model, tmp_path):
    model.ast.save_pretrained(tmp_path / "headless", EXTRACTOR)
    model.save_pretrained(tmp_path / "full", EXTRACTOR)
    for name in ("headless", "full"):
        loaded = ASTModel.from_pretrained(tmp_path / name)
        assert_same(loaded, model.ast)
    assert json.loads((tmp_path / "headless" / "config.json").read_text())["architectures"] == [
        "ASTModel"
    ]


def test_a_classifier_without_a_head_says_how_to_give_one(model, tmp_path):
    model.ast.save_pretrained(tmp_path, EXTRACTOR)
    with pytest.raises(InputError) as caught:
        ASTForAudioClassification.from_pretrained(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: has no classification head; train one, or give num_labels=N to add an "
        f"untrained one"
    )
    for classes in ({"num_labels": 4}, {"label2id": {"a": 0, "b": 1, "c": 2, "d": 3}}):
        loaded = ASTForAudioClassification.from_pretrained(tmp_path, **classes)
        assert loaded.classifier.dense.bias.shape == (4,)
    jax.tree.map(np.testing.assert_array_equal, params_of(loaded.ast), params_of(model.ast))


def test_headless_folders_of_transformers_are_read_and_ours_by_it(model, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model.ast.save_pretrained(tmp_path / "ours", EXTRACTOR)
    theirs = transformers.ASTModel.from_pretrained(tmp_path / "ours").eval()
    theirs.save_pretrained(tmp_path / "theirs")
    names = set(_tensor_names(tmp_path / "theirs" / "model.safetensors"))
    assert "embeddings.cls_token" in names  # without the prefix of the whole model
    loaded = ASTModel.from_pretrained(tmp_path / "theirs")
    out = apply(loaded, CLIPS)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(CLIPS))
    np.testing.assert_allclose(out.last_hidden_state, expected.last_hidden_state, atol=1e-4)
    np.testing.assert_allclose(out.pooler_output, expected.pooler_output, atol=1e-4)


def test_a_model_without_a_classifier_is_adapted_to_other_inputs(model, tmp_path):
    model.ast.save_pretrained(tmp_path, EXTRACTOR)
    adapted = ASTModel.from_pretrained(tmp_path, max_length=96)
    assert adapted.config.max_length == 96
    assert adapted.embeddings.position_embeddings.shape == (1, 2 + 2 * 6, 32)


def _tensor_names(file):
    from safetensors import safe_open

    with safe_open(file, "np") as tensors:
        return list(tensors.keys())


# ---- configurations


def test_a_configuration_is_read_from_every_kind_of_folder(model, tmp_path):
    CONFIG.save_pretrained(tmp_path / "alone")
    assert os.listdir(tmp_path / "alone") == ["config.json"]
    checkpoint = Checkpoint(CONFIG, EXTRACTOR, params_of(model))
    save_checkpoint(tmp_path / "ours", checkpoint)
    save_checkpoint(tmp_path / "run" / "checkpoints" / "4", checkpoint)
    for name in ("alone", "ours", "run"):
        assert ASTConfig.from_pretrained(tmp_path / name) == CONFIG
        assert ASTConfig.from_pretrained(str(tmp_path / name), time_stride=8).time_stride == 8


def test_transformers_reads_a_saved_configuration_and_we_read_theirs(tmp_path):
    transformers = pytest.importorskip("transformers")
    CONFIG.save_pretrained(tmp_path)
    theirs = transformers.ASTConfig.from_pretrained(tmp_path)
    assert (theirs.hidden_size, theirs.label2id) == (32, CONFIG.label2id)
    theirs.save_pretrained(tmp_path / "theirs")
    assert ASTConfig.from_pretrained(tmp_path / "theirs") == CONFIG
    # Neither writes the number of classes if it is the default, two.
    transformers.ASTConfig().save_pretrained(tmp_path / "default")
    assert ASTConfig.from_pretrained(tmp_path / "default").num_labels == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file or folder; give the path of a checkpoint"),
        (lambda path: path.mkdir(), "config.json: no such file"),
        (lambda path: path.touch(), "is a file; give the folder of its config.json"),
    ],
)
def test_a_path_without_a_configuration_is_refused(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(InputError) as caught:
        ASTConfig.from_pretrained(tmp_path / "x")
    assert str(caught.value).startswith(str(tmp_path / "x"))
    assert message in str(caught.value)


def test_a_configuration_that_cannot_be_loaded_again_is_not_saved(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(InputError, match="x is a file; give the path of a folder"):
        CONFIG.save_pretrained(tmp_path / "x")
    with pytest.raises(InputError, match="is remote; write to a folder"):
        CONFIG.save_pretrained("gs://bucket/x")
    with pytest.raises(InputError, match="hidden_size is 'wide'; it must be a whole number"):
        ASTConfig(hidden_size="wide").save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_label2id_is_the_inverse_of_the_class_names():
    assert CONFIG.label2id == {"dog": 0, "rain": 1, "clé": 2}
    assert CONFIG.replace(id2label=None).label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    assert CONFIG.replace(label2id={"b": 1, "a": 0}).id2label == {0: "a", 1: "b"}
    names = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}, "num_labels": 2}
    assert CONFIG.replace(**names).labels == ["a", "b"]
    repeated = CONFIG.replace(id2label={0: "a", 1: "b", 2: "a"})
    with pytest.raises(InputError, match="the name 'a' for the classes 0 and 2, so label2id is"):
        repeated.label2id  # noqa: B018
    assert ASTConfig.from_dict(repeated.to_dict()) == repeated


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"label2id": {"a": 0, "b": 0}}, "label2id is not the inverse of id2label"),
        ({"label2id": {"a": 0}, "id2label": {0: "b"}}, "label2id is not the inverse of id2label"),
        ({"label2id": {"a": "x"}}, "label2id must map names to class indices"),
        ({"label2id": ["a", "b"]}, "label2id must map names to class indices"),
        ({"label2id": {"a": 1, "b": 2}}, "id2label must name the classes 0 to 1"),
    ],
)
def test_an_unusable_label2id_is_refused(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        CONFIG.replace(**changes)


def test_a_graphdef_is_an_argument_of_jit(model):
    graphdef, state = nnx.split(model)

    @jax.jit
    def logits(graphdef, state, x):
        return nnx.merge(graphdef, state)(x)

    np.testing.assert_allclose(logits(graphdef, state, CLIPS), apply(model, CLIPS), atol=1e-5)
    same = nnx.split(ASTForAudioClassification(CONFIG.replace(), rngs=nnx.Rngs(0)))[0]
    logits(same, state, CLIPS)
    assert logits._cache_size() == 1
