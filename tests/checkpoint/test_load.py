import json
from pathlib import Path

import jax
import numpy as np
import pytest

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.adapt import adapt_checkpoint
from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.checkpoint.load import find_checkpoint, read_checkpoint, step_folders
from ast_jax.checkpoint.torch_write import write_huggingface, write_original
from ast_jax.errors import InputError
from ast_jax.models.ast import ASTForAudioClassification
from ast_jax.models.config import ASTConfig
from ast_jax.models.positions import resize_position_embeddings
from tests.params import random_params

# Of checkpoints without preprocessor_config.json.
pytestmark = pytest.mark.filterwarnings("ignore:.*mean .* and std .* are used:UserWarning")

CONFIG = ASTConfig(
    hidden_size=64,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=32,
    max_length=128,
    id2label={0: "rain", 1: "wind", 2: "owl"},
    num_labels=3,
)


CHECKPOINT = Checkpoint(CONFIG, ASTFeatureExtractor(max_length=128), random_params(CONFIG))
HEADLESS = CHECKPOINT._replace(params={"ast": CHECKPOINT.params["ast"]})


def assert_params_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Returns one checkpoint in every format that a path can have."""
    folder = tmp_path_factory.mktemp("places")
    save_checkpoint(folder / "ours", CHECKPOINT)
    save_checkpoint(folder / "run" / "checkpoints" / "8", CHECKPOINT)
    write_huggingface(folder / "huggingface", CHECKPOINT)
    pytest.importorskip("torch")
    write_original(folder / "x.pth", CHECKPOINT)
    (folder / "x.safetensors").hardlink_to(folder / "huggingface" / "model.safetensors")
    (folder / "link").symlink_to(folder / "ours")
    return folder


@pytest.mark.parametrize("name", ["ours", "link", "run", "huggingface", "x.pth", "x.safetensors"])
def test_every_checkpoint_format_is_read(places, name):
    for path in (places / name, str(places / name)):
        config, extractor, params = read_checkpoint(path)
        assert_params_equal(params, CHECKPOINT.params)
        assert (config.grid, extractor.max_length) == ((12, 12), 128)
        named = not name.startswith("x.")  # a single file has no labels
        assert config.labels == (CONFIG if named else CONFIG.replace(id2label=None)).labels


@pytest.mark.parametrize("name", ["ours", "huggingface", "x.pth"])
def test_changes_to_the_input_adapt_positions_and_extractor(places, name):
    config, extractor, params = read_checkpoint(
        places / name, {"max_length": 200, "num_mel_bins": 64}
    )
    assert (config.max_length, config.num_mel_bins) == (200, 64)
    assert (extractor.max_length, extractor.num_mel_bins) == (200, 64)
    embeddings = CHECKPOINT.params["ast"]["embeddings"]["position_embeddings"]
    expected = resize_position_embeddings(embeddings, CONFIG.grid, config.grid)
    np.testing.assert_array_equal(params["ast"]["embeddings"]["position_embeddings"], expected)
    assert_params_equal(params["classifier"], CHECKPOINT.params["classifier"])


def test_from_pretrained_applies_changes(places):
    model = ASTForAudioClassification.from_pretrained(places / "ours", num_labels=7, time_stride=5)
    assert model(np.zeros((2, 128, 128), np.float32)).shape == (2, 7)


def test_the_newest_step_of_a_run_is_loaded(tmp_path):
    for step in (9, 10, 100):
        params = random_params(CONFIG, seed=step)
        save_checkpoint(tmp_path / "checkpoints" / str(step), CHECKPOINT._replace(params=params))
    steps = step_folders(tmp_path)
    assert [step.name for step in steps] == ["9", "10", "100"]
    assert find_checkpoint(tmp_path) == steps[-1]
    guesses = []
    read = read_checkpoint(tmp_path, {"time_stride": 12}, guesses=guesses)
    assert read.config.time_stride == 12
    assert guesses == [
        "the run is not finished, and its step 100 is used",
        "position embeddings are adapted: time_stride 10 → 12",
    ]
    assert_params_equal(read_checkpoint(tmp_path).params, random_params(CONFIG, seed=100))


def test_an_unfinished_step_of_orbax_is_ignored(tmp_path):
    save_checkpoint(tmp_path / "checkpoints" / "9", CHECKPOINT)
    unfinished = tmp_path / "checkpoints" / "10.orbax-checkpoint-tmp" / "config"
    unfinished.mkdir(parents=True)
    (unfinished / "config.json").write_text("{}")
    (tmp_path / "checkpoints" / "11").mkdir()
    assert [step.name for step in step_folders(tmp_path)] == ["9"]


def test_a_run_without_a_checkpoint_yet_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match=f"^{tmp_path}: no checkpoint: neither one of ast_jax nor"):
        read_checkpoint(tmp_path)


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(InputError, match="none: no such file or folder; give the path"):
        read_checkpoint(tmp_path / "none")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "path is ''; give the path of a file or folder"),
        (None, "path is None"),
        (["run"], "path is \\['run'\\]"),
        ("x" * 5000, "cannot be read .File name too long.; give the path"),
        ("run.json", "run.json: is no file of weights; give its folder"),
    ],
)
def test_what_is_no_path_of_a_checkpoint_is_refused(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    Path("run.json").touch()
    with pytest.raises(InputError, match=message):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("missing", "hint"),
    [
        ("runs/dmeo", "did you mean runs/demo?"),
        ("rums/demo", "did you mean runs/demo?"),
        ("run", "did you mean runs?"),
        ("runs/other", "give the path of a checkpoint"),
        ("other/demo.pth", "give the path of a checkpoint"),
        ("../xyz", "give the path of a checkpoint"),
        ("runs/demo/config.json/x", "give the path of a checkpoint"),
        (
            "MIT/ast-0.4593",
            "give the path of a checkpoint, or download this one and give its folder: hf download "
            "MIT/ast-0.4593 --local-dir checkpoints/ast-0.4593",
        ),
        (
            "checkpoints/ast-finetuned-x",  # as in configs/finetune.py
            "give the path of a checkpoint, or download it: hf download MIT/ast-finetuned-x "
            "--local-dir checkpoints/ast-finetuned-x",
        ),
    ],
)
def test_a_misspelled_path_is_told_from_a_name_on_a_hub(tmp_path, monkeypatch, missing, hint):
    (tmp_path / "here" / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "here" / "runs" / "demo" / "config.json").touch()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError) as caught:
        read_checkpoint(missing)
    assert str(caught.value) == f"{missing}: no such file or folder; {hint}"


# ---- heads and labels


def test_another_number_of_classes_creates_an_unnamed_head():
    new = adapt_checkpoint(CHECKPOINT, {"num_labels": 50})
    assert new.params["classifier"]["dense"]["kernel"].shape == (64, 50)
    # Fifty classes are not necessarily those of ESC-50.
    assert new.config.labels[0] == "LABEL_0"
    assert_params_equal(new.params["ast"], CHECKPOINT.params["ast"])


def test_new_labels_set_the_number_of_classes_and_create_a_head():
    new = adapt_checkpoint(CHECKPOINT, {"id2label": {0: "a", 1: "b"}})
    assert new.config.num_labels == 2
    assert new.params["classifier"]["dense"]["bias"].shape == (2,)


def test_a_new_head_depends_on_its_seed():
    heads = [
        adapt_checkpoint(CHECKPOINT, {"num_labels": 5}, seed).params["classifier"]
        for seed in (0, 1)
    ]
    assert not np.array_equal(*(head["dense"]["kernel"] for head in heads))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"num_labels": 527}, "multi_label_classification"),
        ({"num_labels": 10}, "single_label_classification"),
        (
            {"num_labels": 10, "problem_type": "multi_label_classification"},
            "multi_label_classification",
        ),
    ],
)
def test_a_new_heads_problem_type_comes_from_the_benchmark_or_the_caller(changes, kind):
    assert adapt_checkpoint(CHECKPOINT, changes).config.problem_type == kind


def test_without_changes_nothing_changes():
    same = adapt_checkpoint(CHECKPOINT, {})
    assert same[:2] == CHECKPOINT[:2]
    assert_params_equal(same.params, CHECKPOINT.params)


def test_a_checkpoint_without_a_head_gets_one_only_on_request():
    assert set(adapt_checkpoint(HEADLESS, {"max_length": 200}).params) == {"ast"}
    labels = {i: f"class {i}" for i in range(4)}
    for changes in ({"num_labels": 4}, {"id2label": labels}):
        new = adapt_checkpoint(HEADLESS, changes)
        assert new.config.num_labels == 4
        assert new.params["classifier"]["dense"]["kernel"].shape == (64, 4)


def test_a_checkpoint_without_a_head_cannot_classify(tmp_path):
    save_checkpoint(tmp_path / "headless", HEADLESS)
    with pytest.raises(InputError) as caught:
        read_checkpoint(tmp_path / "headless")
    assert str(caught.value) == (
        f"{tmp_path / 'headless'}: has no classification head; train one, or give num_labels=N to "
        f"add an untrained one"
    )
    params = read_checkpoint(tmp_path / "headless", {"num_labels": 2}).params
    assert params["classifier"]["dense"]["kernel"].shape == (64, 2)


# ---- invalid changes


@pytest.mark.parametrize("name", ["ours", "huggingface", "x.pth"])
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"frequncy_stride": 5}, "'frequncy_stride' is no field of ASTConfig"),
        ({"guesses": []}, "'guesses' is no field of ASTConfig"),
        (
            {"max_length": "long"},
            "max_length is 'long'; it must be a whole number",
        ),
        ({"max_length": 8}, "max_length 8 is smaller than one patch"),
        ({"dtype": "int4"}, "dtype is 'int4'; it must be one of float32, bfloat16"),
        ({"hidden_size": 128}, "parameter ast/.* leave a trained model's width"),
        ({"num_hidden_layers": 2}, "parameter ast/encoder/.* leave a trained model's width"),
        ({"patch_size": 8}, "parameter ast/embeddings/patch_projection/kernel"),
        ({"num_labels": 4, "id2label": {0: "a"}}, "id2label must name the classes 0 to 3"),
    ],
)
def test_an_invalid_change_names_the_field(places, name, changes, complaint):
    with pytest.raises(InputError, match=complaint):
        ASTForAudioClassification.from_pretrained(places / name, **changes)


def test_a_damaged_newest_step_is_refused_not_skipped(tmp_path):
    for step in ("1", "2"):
        save_checkpoint(tmp_path / "checkpoints" / step, CHECKPOINT)
    (tmp_path / "checkpoints" / "2" / "config" / "config.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match=r"checkpoints/2/config/config\.json: 'model' is missing"):
        read_checkpoint(tmp_path)
