"""Folders of Hugging Face's library, in the forms that it and its Trainer save."""

import json
import shutil
import warnings

import jax
import numpy as np
import pytest

import ast_jax
from ast_jax.checkpoint.load import read_checkpoint
from ast_jax.checkpoint.torch_files import read_state_dict
from ast_jax.checkpoint.torch_read import read_torch_checkpoint
from ast_jax.checkpoint.torch_write import write_huggingface
from ast_jax.errors import InputError
from ast_jax.labels import AUDIOSET, class_names

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 32,
    "max_length": 128,
}


def save_theirs(folder, seed=0, model_class="ASTForAudioClassification", **options):
    """Saves a small model of transformers; returns it."""
    fields = {name: options.pop(name) for name in list(options) if name != "max_shard_size"}
    torch.manual_seed(seed)
    model = getattr(transformers, model_class)(transformers.ASTConfig(**SMALL | fields))
    model.save_pretrained(folder, **options)
    return model


def save_extractor(folder):
    extractor = ast_jax.ASTFeatureExtractor(max_length=128, mean=-3.0, std=2.0)
    extractor.save_pretrained(folder)
    return extractor


def rewrite(file, **entries):
    content = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def guesses_of(folder):
    return read_torch_checkpoint(folder).guesses


def assert_same_params(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


# ---- shards


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Returns folders of one model: in one file, and in shards of each format."""
    folder = tmp_path_factory.mktemp("saved")
    save_theirs(folder / "one", num_labels=3)
    save_theirs(folder / "model.safetensors", num_labels=3, max_shard_size="40KB")
    save_bin_shards(folder)
    return folder


def save_bin_shards(folder):
    """Saves the shards as earlier versions of transformers did; it no longer writes them."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import load_file

    tensors = load_file(folder / "one" / "model.safetensors")
    pattern = "pytorch_model{suffix}.bin"
    plan = split_torch_state_dict_into_shards(
        tensors, filename_pattern=pattern, max_shard_size="40KB"
    )
    new = folder / "pytorch_model.bin"
    new.mkdir()
    for file, names in plan.filename_to_tensors.items():
        torch.save({name: tensors[name] for name in names}, new / file)
    index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
    (new / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    shutil.copy(folder / "one" / "config.json", new)


FORMATS = ["model.safetensors", "pytorch_model.bin"]


@pytest.mark.parametrize("name", FORMATS)
def test_shards_are_read_like_one_file(saved, name):
    files = [file.name for file in (saved / name).glob(f"*.{name.partition('.')[2]}")]
    assert len(files) > 2
    expected = read_torch_checkpoint(saved / "one").checkpoint
    checkpoint = read_torch_checkpoint(saved / name).checkpoint
    assert checkpoint[:2] == expected[:2]
    assert_same_params(checkpoint.params, expected.params)
    by_index = read_torch_checkpoint(saved / name / f"{name}.index.json").checkpoint
    assert_same_params(by_index.params, expected.params)


def damaged(saved, tmp_path, name, change):
    """Returns a copy of the shards after `change(index, weight_map)`."""
    folder = tmp_path / "copy"
    shutil.copytree(saved / name, folder)
    file = folder / f"{name}.index.json"
    index = json.loads(file.read_text())
    change(folder, index["weight_map"])
    file.write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_shard_is_named(saved, tmp_path, name):
    removed = []

    def remove(folder, weight_map):
        removed.append(folder / sorted(weight_map.values())[-1])
        removed[0].unlink()

    folder = damaged(saved, tmp_path, name, remove)
    with pytest.raises(InputError, match=r"no such file, and .*index\.json lists it") as caught:
        read_torch_checkpoint(folder)
    assert str(caught.value).startswith(f"{removed[0]}: ")


@pytest.mark.parametrize("name", FORMATS)
def test_a_tensor_that_its_shard_lacks_is_named(saved, tmp_path, name):
    def add(folder, weight_map):
        weight_map["classifier.extra"] = next(iter(weight_map.values()))

    with pytest.raises(InputError, match=r"bin|safetensors: tensor classifier\.extra is missing"):
        read_torch_checkpoint(damaged(saved, tmp_path, name, add))


def test_a_tensor_in_two_shards_is_named(saved, tmp_path):
    def duplicate(folder, weight_map):
        first, *_, last = sorted(set(weight_map.values()))
        torch.save(
            torch.load(folder / first, weights_only=True)
            | torch.load(folder / last, weights_only=True),
            folder / last,
        )

    with pytest.raises(InputError, match=r"tensor .* is in another shard too"):
        read_torch_checkpoint(damaged(saved, tmp_path, "pytorch_model.bin", duplicate))


@pytest.mark.parametrize(
    "file", ["../one/model.safetensors", "/etc/x.bin", "a/b.bin", "x.json", "x\n.bin", 3, "a" * 500]
)
def test_an_index_cannot_name_files_elsewhere(saved, tmp_path, file):
    def redirect(folder, weight_map):
        weight_map[next(iter(weight_map))] = file

    folder = damaged(saved, tmp_path, "model.safetensors", redirect)
    with pytest.raises(InputError, match=r"index\.json: maps tensor .* of its folder") as caught:
        read_torch_checkpoint(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": [1]}', "{"])
def test_an_index_without_a_map_is_refused(tmp_path, content):
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(content)
    with pytest.raises(InputError, match=f"^{file}: "):
        read_state_dict(file)


# ---- Trainer


def test_the_newest_checkpoint_of_a_trainer_is_used_and_named(tmp_path):
    for step in (9, 100, 20):
        save_theirs(tmp_path / f"checkpoint-{step}", seed=step, num_labels=3)
        save_extractor(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "runs").mkdir()
    checkpoint, notes, guesses = read_torch_checkpoint(tmp_path)
    assert guesses == ["checkpoint-100 is used, the newest checkpoint of a Trainer there"]
    assert str(tmp_path / "checkpoint-100" / "model.safetensors") in notes[0]
    expected = read_torch_checkpoint(tmp_path / "checkpoint-100").checkpoint
    assert_same_params(checkpoint.params, expected.params)
    assert checkpoint.feature_extractor.mean == -3.0
    with pytest.warns(UserWarning, match="checkpoint-100 is used"):
        assert ast_jax.ASTConfig.from_pretrained(tmp_path) == expected.config

    # The model that the Trainer saves at its end is in the folder itself.
    save_theirs(tmp_path, seed=1, num_labels=2)
    save_extractor(tmp_path)
    checkpoint, _, guesses = read_torch_checkpoint(tmp_path)
    assert (guesses, checkpoint.config.num_labels) == ([], 2)


def test_a_trainers_extractor_may_be_in_the_folder_above(tmp_path):
    save_theirs(tmp_path / "checkpoint-3", num_labels=3)
    extractor = save_extractor(tmp_path)
    assert read_torch_checkpoint(tmp_path).checkpoint.feature_extractor == extractor


def test_an_incomplete_newest_checkpoint_is_refused_not_skipped(tmp_path):
    save_theirs(tmp_path / "checkpoint-3", num_labels=3)
    (tmp_path / "checkpoint-12").mkdir()
    with pytest.raises(InputError, match=f"^{tmp_path}/checkpoint-12: no checkpoint"):
        read_torch_checkpoint(tmp_path)


# ---- config.json and preprocessor_config.json


def test_dropout_is_noted_and_does_not_change_the_outputs(tmp_path):
    rates = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.25}
    model = save_theirs(tmp_path, num_labels=3, **rates).eval()
    save_extractor(tmp_path)
    assert guesses_of(tmp_path) == [
        "hidden_dropout_prob 0.1 and attention_probs_dropout_prob 0.25: not used, as this model "
        "trains without dropout; predictions are not affected"
    ]
    with pytest.warns(UserWarning, match="this model trains without dropout"):
        ours = ast_jax.ASTForAudioClassification.from_pretrained(tmp_path)
    x = np.random.default_rng(0).standard_normal((1, 128, 128), dtype=np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).logits.numpy()
    np.testing.assert_allclose(ours(x), expected, atol=1e-4)


@pytest.mark.parametrize("rate", [1, -0.1, "0.1", "", True, [], float("nan")])
def test_a_dropout_that_is_no_rate_is_refused(tmp_path, rate):
    save_theirs(tmp_path, num_labels=3)
    rewrite(tmp_path / "config.json", hidden_dropout_prob=rate)
    with pytest.raises(InputError, match=r"config\.json: hidden_dropout_prob must be from 0 to 1"):
        read_torch_checkpoint(tmp_path)


@pytest.mark.parametrize("value", [True, False])
def test_return_attention_mask_is_ignored(tmp_path, value):
    save_theirs(tmp_path, num_labels=3)
    extractor = save_extractor(tmp_path)
    rewrite(tmp_path / "preprocessor_config.json", return_attention_mask=value)
    assert read_torch_checkpoint(tmp_path).checkpoint.feature_extractor.mean == extractor.mean


@pytest.mark.parametrize("num_labels", [2, 35, 50, 527])
@pytest.mark.parametrize("has_names", [True, False])
def test_classes_without_names_in_a_folder_stay_unnamed(tmp_path, num_labels, has_names):
    save_theirs(tmp_path, num_labels=num_labels)
    if not has_names:
        rewrite(tmp_path / "config.json", id2label=..., label2id=...)
    config, extractor, _ = read_torch_checkpoint(tmp_path).checkpoint
    assert config.labels == [f"LABEL_{i}" for i in range(num_labels)]
    assert config.problem_type == "single_label_classification"
    assert (extractor.mean, extractor.std) == (AUDIOSET.mean, AUDIOSET.std)


@pytest.mark.parametrize(("classes", "names"), [(527, "audioset"), (50, "esc50")])
@pytest.mark.parametrize("kind", ["x.pth", "x.safetensors"])
def test_class_names_that_a_file_lacks_are_guessed_aloud(
    original_tensors, tmp_path, classes, names, kind
):
    from safetensors.torch import save_file

    tensors = {k: torch.from_numpy(v) for k, v in original_tensors(classes=classes).items()}
    (torch.save if kind == "x.pth" else save_file)(tensors, tmp_path / kind)
    checkpoint, _, guesses = read_torch_checkpoint(tmp_path / kind)
    assert checkpoint.config.labels == list(class_names(names))
    assert f"no class names: those of {names} are used, as it has {classes} classes" in guesses[1]
    # As the note advises.
    write_huggingface(tmp_path / "folder", checkpoint)
    others = {str(i): f"class {i}" for i in range(classes)}
    rewrite(tmp_path / "folder" / "config.json", id2label=others, problem_type=...)
    config = read_torch_checkpoint(tmp_path / "folder").checkpoint.config
    assert config.labels == list(others.values())
    assert config.problem_type == "single_label_classification"


def test_names_that_replace_those_of_a_file_are_not_guessed(original_tensors, save_torch, tmp_path):
    path = save_torch(original_tensors(classes=50), tmp_path / "x.pth")
    for changes in ({"num_labels": 3}, {"id2label": {0: "a", 1: "b"}}):
        guesses = []
        read_checkpoint(path, changes, guesses=guesses)
        assert not any("class names" in guess for guess in guesses)
    read_checkpoint(path, {"num_labels": 50}, guesses=guesses)
    assert any("class names" in guess for guess in guesses)


# ---- warnings in Python


@pytest.fixture(params=["folder", "x.safetensors", "x.pth"])
def without_extractor(request, tmp_path, original_tensors, save_torch):
    """Returns a checkpoint without preprocessor_config.json, of each kind."""
    if request.param == "x.pth":
        return save_torch(original_tensors(), tmp_path / "x.pth")
    save_theirs(tmp_path / "folder", num_labels=3)
    if request.param == "folder":
        return tmp_path / "folder"
    return (tmp_path / "folder" / "model.safetensors").rename(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "load",
    [
        ast_jax.load,
        ast_jax.ASTForAudioClassification.from_pretrained,
        ast_jax.ASTModel.from_pretrained,
    ],
)
def test_python_warns_once_of_what_was_assumed(without_extractor, load):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(without_extractor)
    (message,) = (str(warning.message) for warning in caught)
    assert message.startswith(f"{without_extractor}: ")
    assert f"mean {AUDIOSET.mean} and std {AUDIOSET.std} of audioset are used" in message


def test_a_caller_that_asks_for_the_guesses_is_not_warned(without_extractor):
    guesses = []
    read_checkpoint(without_extractor, guesses=guesses)
    assert sum("no preprocessor_config.json" in guess for guess in guesses) == 1
