"""Runs of earlier versions keep the files that they held out; runs record their training clips."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.config import FolderData, TrainConfig
from ast_jax.config_files import load_config
from ast_jax.data.overlap import hash_clips, read_trained_clips
from ast_jax.data.training_data import load_data
from ast_jax.errors import InputError
from ast_jax.evaluation.evaluation_set import read_evaluation_set, read_holdout
from ast_jax.runs.workdir import acquire_workdir, check_data, keep_holdout, open_workdir

EXTRACTOR = ASTFeatureExtractor()


@pytest.fixture
def sounds(tmp_path):
    """Returns a folder of which the two ways hold out other files."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        for name in [*(f"{i}.wav" for i in range(10)), "sub/1.wav"]:
            (tmp_path / "sounds" / label / name).parent.mkdir(parents=True, exist_ok=True)
            noise = rng.standard_normal(500)
            soundfile.write(tmp_path / "sounds" / label / name, 0.1 * noise, 16000)
    return tmp_path / "sounds"


def config_of(sounds, num_epochs=10, **fields):
    return TrainConfig(
        workdir=str(sounds.parent / "run"),
        num_epochs=num_epochs,
        data=FolderData(dir=str(sounds), **fields),
    )


def start(config):
    """Writes the folder of a run that was just started, and returns its data."""
    data = load_data(config)
    workdir, saved = open_workdir(config)
    with hold(workdir, saved, config, data):
        return data


@pytest.fixture
def earlier_run(sounds):
    """Returns the data of a run of an earlier version, in the folder `run`."""
    data = start(config_of(sounds, stratify=False, recursive=False))
    file = sounds.parent / "run" / "run.json"
    run = json.loads(file.read_text())
    for name in ("stratify", "recursive", "group"):
        del run["config"]["data"][name]
    file.write_text(json.dumps(run))
    return data


def test_a_run_of_an_earlier_version_resumes_with_its_hold_out(sounds, earlier_run):
    config = config_of(sounds)
    assert set(load_data(config).evaluation.names) != set(earlier_run.evaluation.names)
    workdir, saved = open_workdir(config)
    with pytest.raises(InputError, match="its run started with other recordings"):
        check_data(workdir, saved, load_data(config))
    resumed = load_data(keep_holdout(config, saved))
    check_data(workdir, saved, resumed)
    assert resumed.train.names == earlier_run.train.names
    assert resumed.evaluation.names == earlier_run.evaluation.names
    kept = load_config(workdir / "run.json").data
    assert (kept.stratify, kept.recursive, kept.group) == (False, False, "")
    config = keep_holdout(config_of(sounds, num_epochs=99), saved)
    with hold(workdir, saved, config, resumed):  # more epochs
        pass
    plain = config_of(sounds, num_epochs=99)
    assert keep_holdout(plain, open_workdir(plain)[1]) == config
    with pytest.raises(InputError, match=r"another data\.group \(, not x\)"):
        open_workdir(config_of(sounds, num_epochs=99, group="x"))


def test_a_run_of_this_version_refuses_another_hold_out(sounds):
    start(config_of(sounds))
    open_workdir(config_of(sounds))
    for name, value in (("stratify", False), ("recursive", False), ("group", "^.")):
        with pytest.raises(InputError, match=rf"another data\.{name}"):
            open_workdir(config_of(sounds, **{name: value}))


def test_a_run_records_its_training_clips_once(sounds):
    data = start(config_of(sounds))
    file = sounds.parent / "run" / "trained_clips.npz"
    assert hash_clips(data.train).found_in(read_trained_clips(file.parent)).all()
    assert not hash_clips(data.evaluation).found_in(read_trained_clips(file.parent)).any()


@pytest.mark.parametrize("fields", [{}, {"group": r"^(.)"}, {"holdout": 0.5, "recursive": False}])
def test_evaluation_takes_the_hold_out_of_the_run(sounds, fields):
    data = start(config_of(sounds, **fields))
    holdout = read_holdout([sounds, sounds.parent / "run" / "model"])
    found = read_evaluation_set(sounds, 16000, split="test", holdout=holdout)
    assert [f"{sounds}/{name}" for name in found.clips.names] == data.evaluation.names
    whole = read_evaluation_set(sounds, 16000, holdout=holdout)
    assert whole.split == "all"
    assert read_holdout([sounds]) is None


def test_files_with_other_names_are_evaluated_after_a_run_with_groups(sounds, tmp_path):
    start(config_of(sounds, group=r"\d"))
    holdout = read_holdout([sounds.parent / "run"])
    unseen = tmp_path / "unseen"
    for name in ("cat/meow.wav", "dog/bark.wav"):
        for folder in (unseen, tmp_path / "splits" / "train", tmp_path / "splits" / "test"):
            (folder / name).parent.mkdir(parents=True)
            shutil.copy(sounds / "cat" / "1.wav", folder / name)
    found = read_evaluation_set(unseen, 16000, holdout=holdout)
    assert sorted(found.clips.names) == ["cat/meow.wav", "dog/bark.wav"]
    found = read_evaluation_set(tmp_path / "splits", 16000, split="test", holdout=holdout)
    assert list(found.clips.names) == ["cat/meow.wav", "dog/bark.wav"]
    with pytest.raises(InputError, match=r"data\.group .* finds no recording in 'meow\.wav'"):
        read_evaluation_set(unseen, 16000, split="test", holdout=holdout)


def test_evaluation_takes_the_hold_out_of_an_earlier_run(sounds, earlier_run):
    holdout = read_holdout([sounds.parent / "run"])
    found = read_evaluation_set(sounds, 16000, split="test", holdout=holdout)
    assert [f"{sounds}/{name}" for name in found.clips.names] == earlier_run.evaluation.names


@pytest.fixture
def started(sounds):
    config = config_of(sounds)
    return config, start(config)


def hold(workdir, saved, config, data):
    hashes = hash_clips(data.train)
    return acquire_workdir(workdir, saved, config, data, hashes, EXTRACTOR, {})


def test_a_second_run_in_a_folder_is_told_in_one_sentence(started):
    config, data = started
    message = rf"^{config.workdir}: another run \(process {os.getpid()} on \S+\) is writing there; "
    with hold(*open_workdir(config), config, data):
        before = sorted(os.listdir(config.workdir))
        with pytest.raises(InputError, match=message):
            open_workdir(config)
        with pytest.raises(InputError, match=message), hold_saved(config, data):
            pass
        assert sorted(os.listdir(config.workdir)) == before
    with hold(*open_workdir(config), config, data):
        pass


def hold_saved(config, data):
    saved = json.loads((Path(config.workdir) / "run.json").read_text())
    return acquire_workdir(
        Path(config.workdir), saved, config, data, hash_clips(data.train), EXTRACTOR, {}
    )


def test_a_run_that_another_has_overtaken_does_not_overwrite_it(sounds):
    config = config_of(sounds)
    data = load_data(config)
    late = acquire_workdir(
        *open_workdir(config), config, data, hash_clips(data.train), EXTRACTOR, {}
    )
    start(config)
    before = (sounds.parent / "run" / "run.json").stat().st_mtime_ns
    with pytest.raises(InputError, match="another run has started there meanwhile"), late:
        pass
    assert (sounds.parent / "run" / "run.json").stat().st_mtime_ns == before


def test_a_pipe_in_a_run_is_not_read(started):
    file = Path(started[0].workdir) / "trained_clips.npz"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputError, match=f"^{file}: is a pipe or a device"):
        read_trained_clips(file.parent)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("feature_extractor", {}),
        ("feature_extractor", None),
        ("data", {}),
        ("data", 3),
        ("config", []),
    ],
)
def test_a_run_that_would_resume_with_defaults_is_refused(started, part, value):
    config, _ = started
    file = Path(config.workdir) / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {part: value}))
    with pytest.raises(InputError, match=r"run\.json is damaged; restore it from a copy"):
        open_workdir(config)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"config": {"data": {"kind": "folder", "holdout": "x"}}}']
)
def test_a_damaged_run_is_named(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"its run\.json is damaged \(.*\); repair or remove it"):
        read_holdout([tmp_path])


def test_a_folder_that_cannot_be_written_is_told_before_the_data_is_read(sounds):
    (sounds / "file").touch()
    config = config_of(sounds)
    config.workdir = str(sounds / "file" / "run")
    with pytest.raises(InputError, match=r"/file/run: cannot be written, as .*/file is a file; ch"):
        open_workdir(config)
