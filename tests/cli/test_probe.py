import csv
import json

import numpy as np
import pytest
import soundfile
from raw_sets import write_esc50

from ast_jax.cli.main import main
from ast_jax.data.clips import read_clips
from ast_jax.data.overlap import TRAINED_FILE, hash_clips, write_trained_clips
from ast_jax.data.sources.folds import list_esc50
from ast_jax.evaluation.probe import PROBES

pytest.importorskip("sklearn")


@pytest.fixture(autouse=True)
def few_settings(monkeypatch):
    monkeypatch.setattr("ast_jax.evaluation.probe.REGULARIZATION", (1.0,))
    monkeypatch.setattr("ast_jax.evaluation.probe.NEIGHBORS", (1, 3))


def probe(*arguments):
    return main(["probe", *map(str, arguments)])


@pytest.fixture(scope="module")
def esc50(tmp_path_factory):
    """Returns a folder with a high and a low sound for each fold, which a probe can tell apart."""
    folder = tmp_path_factory.mktemp("data") / "ESC-50"
    rng = np.random.default_rng(0)
    folder.mkdir()
    write_esc50(folder, rng)
    for path in sorted((folder / "audio").iterdir()):
        pitch = 300 if path.stem.endswith("-0") else 3000
        tone = np.sin(2 * np.pi * pitch * np.arange(8000) / 16000)
        soundfile.write(path, 0.3 * tone + 0.02 * rng.standard_normal(8000), 16000)
    return folder


def test_every_fold_is_held_out_once(checkpoint, esc50, tmp_path, capsys):
    arguments = ["--checkpoint", checkpoint / "ours", "--data", esc50, "--output", tmp_path / "out"]
    assert probe(*arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines()[-1] == f"wrote {tmp_path / 'out'}"
    assert "mean ± std" in printed.out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["clips"], results["classes"], results["clips_trained_on"]) == (10, 2, None)
    assert [each["probe"] for each in results["probes"]] == list(PROBES)
    for each in results["probes"]:
        assert each["metric"] == "accuracy"
        assert [fold["held_out"] for fold in each["folds"]] == [f"fold{i}" for i in range(1, 6)]
        assert each["mean"] == np.mean([fold["score"] for fold in each["folds"]]) == 1
    with open(tmp_path / "out" / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    for row in rows:
        assert row["clip"].split("/")[-1].startswith(row["held_out"][-1])
        assert row["true"] == row["predicted"] == ("dog" if "A-0." in row["clip"] else "rain")


def test_splits_of_a_prepared_set_are_used_as_by_evaluate(checkpoint, prepared, capsys):
    arguments = ["--checkpoint", checkpoint / "ours", "--data", prepared, "--json"]
    assert probe(*arguments, "--pooling", "mean", "--layer", "0") == 0
    results = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (results["pooling"], results["layer"]) == ("mean", 0)
    for each in results["probes"]:
        assert [(fold["held_out"], fold["clips"]) for fold in each["folds"]] == [("test", 2)]
        assert each["std"] is None


def test_folds_that_the_checkpoint_was_trained_on_are_named(
    checkpoint, esc50, prepared, tmp_path, capsys
):
    (tmp_path / "run.json").write_text('{"config": {"data": {"kind": "esc50"}}}')
    (tmp_path / "model").symlink_to(checkpoint / "ours")
    labels, splits, *_ = list_esc50(esc50)
    clips, _ = read_clips(splits["fold2"] + splits["fold4"], len(labels), 16000, "clips")
    write_trained_clips(tmp_path / TRAINED_FILE, hash_clips(clips))
    chosen = ["--split", "fold1", "--train", "fold2+fold3+fold4"]
    assert probe("--checkpoint", tmp_path, "--data", esc50, *chosen, "--json") == 0
    printed = capsys.readouterr()
    assert printed.err == (
        f"note: {tmp_path}: trained on 4 of the 8 clips, in fold2, fold4; scores of these say "
        f"little about new sounds\n"
    )
    results = json.loads(printed.out)
    assert probe("--checkpoint", tmp_path, "--data", prepared) == 0
    assert capsys.readouterr().err == (
        f"note: {tmp_path}: trained on none of the 12 clips (compared by name and length)\n"
    )
    counts = {"fold1": 0, "fold2": 2, "fold3": 0, "fold4": 2}
    assert results["clips_trained_on"] == counts
    assert [fold["held_out"] for fold in results["probes"][0]["folds"]] == ["fold1"]


def test_class_folders_hold_out_what_training_would(checkpoint, source, tmp_path, capsys):
    folder = tmp_path / "classes"
    for label in ("bark", "meow"):
        (folder / label).mkdir(parents=True)
        for path in sorted((source / label).glob("[0-9].wav")):
            (folder / label / path.name).symlink_to(path)
    assert probe("--checkpoint", checkpoint / "ours", "--data", folder, "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert results["probes"][0]["folds"][0]["held_out"] == "test"
    assert results["clips"] == 12


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "{tmp}/none"], "{tmp}/none: no such folder"),
        (["--split", "dev"], "{data}/folder/1.0.0: has no split 'dev'; it has train, test"),
        (["--split", "train"], "{data}/folder/1.0.0: split 'train' is trained on and held out; "),
        (["--layer", "7"], "layer is 7; give one from 0 "),
        (["--output", "{tmp}"], "{tmp}: exists already; choose another output or remove it"),
        (["--checkpoint", "{tmp}/none"], "{tmp}/none: no such file or folder; give the path"),
    ],
)
def test_unusable_input_is_refused_in_one_sentence(
    checkpoint, prepared, tmp_path, capsys, flags, message
):
    paths = {"tmp": tmp_path, "data": prepared}
    flags = [flag.format(**paths) for flag in flags]
    defaults = {"--checkpoint": checkpoint / "ours", "--data": prepared}
    for flag, value in defaults.items():
        flags += [] if flag in flags else [flag, value]
    assert probe(*flags) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"ast-jax: {message.format(**paths)}")
    assert printed.out == ""
    assert not list(tmp_path.iterdir())
