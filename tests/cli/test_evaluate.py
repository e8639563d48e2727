import json

import jax
import numpy as np
import pytest

import ast_jax
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, load_checkpoint, save_checkpoint
from ast_jax.checkpoint.torch_write import write_huggingface
from ast_jax.cli.main import main
from ast_jax.data.overlap import TRAINED_FILE, hash_clips, write_trained_clips
from ast_jax.data.prepared import open_prepared
from ast_jax.models.ast import param_shapes
from ast_jax.models.config import ASTConfig
from ast_jax.thresholds import Thresholds

CONFIG = ASTConfig(
    hidden_size=64,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=32,
    max_length=128,
    num_labels=2,
    id2label={0: "meow", 1: "bark"},
)
CHOOSE = ["--thresholds", "{tmp}/t.json"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Returns checkpoints for the prepared set's classes, with two strides and lengths."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(2)
    other = {"max_length": 64, "time_stride": 8, "id2label": {0: "bark", 1: "meow"}}
    for name, changes in {"a": {}, "b": other, "unnamed": {"id2label": None}}.items():
        config = CONFIG.replace(**changes)
        params = jax.tree.map(
            lambda a: 0.1 * rng.standard_normal(a.shape, dtype=np.float32), param_shapes(config)
        )
        extractor = ASTFeatureExtractor(max_length=config.max_length)
        save_checkpoint(folder / name, Checkpoint(config, extractor, params))
    return folder


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments)])


def test_evaluate_prints_a_table_and_writes_its_results(models, prepared, tmp_path, capsys):
    arguments = [models / "a", models / "b", "--data", prepared, "--split", "train+test"]
    assert evaluate(*arguments, "--output", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "train+test: 12 clips" in " ".join(printed.out.split())
    assert printed.out.splitlines()[-1] == f"wrote {tmp_path / 'out'}"
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["clips"] == 12
    for scores in (*results["checkpoints"], results["ensemble"]):
        figures = [f"{scores['mean_average_precision']:.4f}", f"{scores['accuracy']:.2%}"]
        assert any(all(figure in line for figure in figures) for line in printed.out.splitlines())

    # The same from single classifications.
    clips = open_prepared(prepared).clips("train+test")
    expected = []
    for name in ("a", "b"):
        classifier = ast_jax.load(models / name)
        answers = [classifier(wave / np.float32(32768), 2, 16000) for wave in clips.waveforms]
        expected.append([[p for _, p in sorted(map(_pair, labels))] for labels in answers])
    with np.load(tmp_path / "out" / "predictions.npz") as arrays:
        np.testing.assert_allclose(arrays["probabilities"], expected, atol=1e-5)
        assert arrays["labels"].tolist() == ["bark", "meow"]
    right = np.mean(expected, axis=0).argmax(axis=1) == clips.all_targets().argmax(axis=1)
    assert results["ensemble"]["accuracy"] == pytest.approx(right.mean())


def _pair(label):
    return label["label"], label["score"]


def test_evaluate_prints_valid_json_and_uses_the_held_out_split(models, prepared, capsys):
    assert evaluate(models / "a", "--data", prepared, "--json", "--on-device") == 0
    results = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (results["split"], results["classes"], results["ensemble"]) == ("test", 2, None)
    assert results["checkpoints"][0]["checkpoint"] == str(models / "a")


def test_evaluate_notes_a_checkpoint_without_class_names(models, prepared, capsys):
    assert evaluate(models / "unnamed", "--data", prepared) == 0
    assert capsys.readouterr().err == (
        f"note: {models / 'unnamed'} does not name its classes; the order of the data's "
        f"classes is used\n"
    )


def test_evaluate_notes_what_was_assumed_once(models, prepared, tmp_path, capsys):
    write_huggingface(tmp_path / "theirs", load_checkpoint(models / "a"))
    (tmp_path / "theirs" / "preprocessor_config.json").unlink()
    assert evaluate(tmp_path / "theirs", "--data", prepared) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {tmp_path / 'theirs'}: no preprocessor_config.json: mean ")


def test_evaluate_notes_clips_that_a_run_was_trained_on(models, prepared, tmp_path, capsys):
    (tmp_path / "run.json").write_text('{"config": {"data": {"kind": "prepared"}}}')
    (tmp_path / "model").symlink_to(models / "a")
    for split, trained in (("train", "none of the 2"), ("test", "2 of the 2")):
        clips = open_prepared(prepared).clips(split)
        write_trained_clips(tmp_path / TRAINED_FILE, hash_clips(clips))
        assert evaluate(tmp_path, "--data", prepared) == 0
        assert f"note: {tmp_path}: trained on {trained} clips" in capsys.readouterr().err
    choose = ("--split", "train", "--tuning-split", "test", "--thresholds", tmp_path / "t.json")
    assert evaluate(tmp_path, "--data", prepared, *choose) == 0
    assert f"note: {tmp_path}, test: trained on 2 of the 2 clips" in capsys.readouterr().err


def test_evaluate_writes_thresholds_that_reproduce_the_printed_scores(
    models, prepared, tmp_path, capsys
):
    file, data = tmp_path / "new" / "t.json", ("--data", prepared)
    arguments = (models / "a", *data, "--split", "test", "--tuning-split", "train", "--json")
    assert evaluate(*arguments, "--thresholds", file, "--output", tmp_path / "out") == 0
    printed = json.loads(capsys.readouterr().out)
    thresholds = Thresholds.read(file)
    assert thresholds.chosen_on.startswith(f"{models / 'a'} on {prepared}")
    assert (tmp_path / "out" / "reliability.png").exists()

    classifier = ast_jax.load(models / "a")
    clips = open_prepared(prepared).clips("test")
    answers = [classifier(wave / np.float32(32768), 2, 16000) for wave in clips.waveforms]
    scores = [dict(map(_pair, labels)) for labels in answers]
    detected = [[s[name] for name in classifier.labels] for s in scores] >= thresholds.for_labels(
        classifier.labels
    )
    names = open_prepared(prepared).labels
    targets = clips.all_targets()[:, [names.index(name) for name in classifier.labels]] > 0
    recall = (detected & targets).sum() / targets.sum()
    assert printed["thresholds"]["average"]["micro_recall"] == pytest.approx(recall)


def test_evaluate_cross_fits_thresholds_on_the_only_split(models, prepared, tmp_path, capsys):
    arguments = (models / "a", "--data", prepared, "--split", "train+test")
    assert evaluate(*arguments, "--thresholds", tmp_path / "t.json") == 0
    printed = capsys.readouterr().out
    assert "cross-fitted in 5 folds" in " ".join(printed.split())
    assert printed.splitlines()[-1] == f"wrote {tmp_path / 't.json'}"


@pytest.mark.parametrize(
    ("names", "flags", "message"),
    [
        (["a"], ["--output", "{tmp}"], "{tmp}: exists already; choose another output or"),
        (["a"], ["--split", "eval"], "{data}/folder/1.0.0: has no split 'eval'; it has train, "),
        (["a"], ["--name", "esc50"], "{data}: does not contain a prepared set 'esc50'; make one"),
        (["none"], [], "{models}/none: no such file or folder; give the path of a checkpoint"),
        (["a", "a"], [], "a checkpoint is given twice; give each of them once"),
        (["a", "b"], ["--thresholds", "t.json"], "--thresholds are those of one checkpoint; give"),
        (["a"], ["--thresholds", "t.csv"], "t.csv: does not end in .json; choose a name that"),
        (["a"], ["--calibration", "platt"], "--tuning-split, --min-precision and --calibration "),
        (["a"], ["--thresholds", "{tmp}"], "{tmp}: exists already; choose another output or"),
        (["a"], [*CHOOSE, "--calibration", "platt"], "Platt scaling fits each class by itself"),
        (["a"], [*CHOOSE, "--min-precision", "0"], "min_precision is 0.0; it must be over 0"),
        (["a"], [*CHOOSE, "--tuning-split", "test"], "{data}/folder/1.0.0: split 'test' is eval"),
        (["a"], [*CHOOSE, "--tuning-split", "x"], "{data}/folder/1.0.0: has no split 'x'; it has"),
        (["a"], CHOOSE, "2 clips are too few to choose thresholds on some and score them on"),
    ],
)
def test_evaluate_refuses_invalid_input_in_one_sentence(
    models, prepared, tmp_path, capsys, names, flags, message
):
    paths = {"tmp": tmp_path, "data": prepared, "models": models}
    flags = [flag.format(**paths) for flag in flags]
    assert evaluate(*(models / name for name in names), "--data", prepared, *flags) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"ast-jax: {message.format(**paths)}")
    assert printed.out == ""


def test_evaluate_refuses_other_classes_and_leaves_nothing(checkpoint, prepared, tmp_path, capsys):
    output = tmp_path / "new" / "out"
    assert evaluate(checkpoint / "ours", "--data", prepared, "--output", output) == 1
    assert capsys.readouterr().err == (
        f"ast-jax: {checkpoint / 'ours'}: has no class 'bark', and the data has; give a "
        f"checkpoint and data of the same classes\n"
    )
    assert not list(tmp_path.iterdir())
