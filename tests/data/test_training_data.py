import csv
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ast_jax.config import FolderData, TrainConfig
from ast_jax.data.synthetic import SOUNDS, make_synthetic, synthesize, write_unseen
from ast_jax.data.training_data import load_data, read_esc50, read_folder
from ast_jax.errors import InputError

BY_HASH = FolderData(stratify=False, recursive=False)  # as earlier versions


def write_sound(path, seconds=0.2, rate=22050, level=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    soundfile.write(path, level * rng.standard_normal(int(seconds * rate)), rate)


@pytest.fixture
def esc(tmp_path):
    """Returns a small ESC-50: two classes with targets 7 and 41, two clips per fold."""
    rows = []
    for fold in range(1, 6):
        for target, category in ((41, "chainsaw"), (7, "rooster_call")):
            name = f"{fold}-1-A-{target}.wav"
            write_sound(tmp_path / "audio" / name)
            rows.append([name, fold, target, category, "True", 1, "A"])
    (tmp_path / "meta").mkdir()
    with (tmp_path / "meta" / "esc50.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
        writer.writerows(rows)
    return tmp_path


def test_esc50_holds_out_one_fold_and_numbers_the_existing_classes(esc):
    data = read_esc50(esc, fold=2, sampling_rate=16000)
    assert data.labels == ["rooster_call", "chainsaw"]  # ordered by target
    assert len(data.train.waveforms) == 8
    assert len(data.evaluation.waveforms) == 2
    assert all("/2-1-A-" in name for name in data.evaluation.names)
    assert not any("/2-1-A-" in name for name in data.train.names)
    for clips in (data.train, data.evaluation):
        for name, target in zip(clips.names, clips.targets, strict=True):
            assert target.argmax() == (1 if name.endswith("-41.wav") else 0)
            assert target.sum() == 1
    assert {len(waveform) for waveform in data.train.waveforms} == {3200}


@pytest.mark.parametrize("fold", [0, 6])
def test_esc50_refuses_a_fold_it_does_not_have(esc, fold):
    with pytest.raises(InputError, match=rf"data\.fold is {fold}"):
        read_esc50(esc, fold, 16000)


def test_esc50_names_a_recording_that_is_damaged(esc):
    (esc / "audio" / "4-1-A-7.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"4-1-A-7\.wav"):
        read_esc50(esc, 1, 16000)


@pytest.fixture
def folder(tmp_path):
    for label, count in (("dog", 10), ("cat", 20)):
        for i in range(count):
            write_sound(tmp_path / label / f"{i}.flac")
    (tmp_path / "dog" / "notes.txt").write_text("not a sound")
    return tmp_path


def test_a_folder_has_a_class_per_subfolder_and_holds_out_some_files(folder):
    data = read_folder(folder, BY_HASH, sampling_rate=16000)
    assert data.labels == ["cat", "dog"]
    held_out = [
        sum(zlib.crc32(f"{label}/{i}.flac".encode()) < 0.2 * 2**32 for i in range(count))
        for label, count in (("cat", 20), ("dog", 10))
    ]
    assert data.evaluation.targets.sum(axis=0).tolist() == held_out == [5, 2]
    assert data.train.targets.sum(axis=0).tolist() == [20 - held_out[0], 10 - held_out[1]]
    assert not set(data.train.names) & set(data.evaluation.names)


def sides(folder, holdout=0.2):
    """Returns (label, name) of the training files and of the held-out files."""
    data = read_folder(folder, replace(BY_HASH, holdout=holdout), 16000)
    return [
        {Path(name).parts[-2:] for name in clips.names} for clips in (data.train, data.evaluation)
    ]


def test_a_files_split_does_not_change_when_the_folder_moves(folder, tmp_path_factory):
    before = sides(folder)
    assert sides(folder.rename(tmp_path_factory.mktemp("elsewhere") / "sounds")) == before


def test_a_files_split_does_not_depend_on_other_files(folder):
    train, held_out = sides(folder)
    for i in range(20, 60):
        shutil.copy(folder / "cat" / "0.flac", folder / "cat" / f"{i}.flac")
    more_train, more_held_out = sides(folder)
    assert train < more_train
    assert held_out < more_held_out
    for label, name in list(train)[:5]:
        (folder / label / name).unlink()
    assert sides(folder)[1] == more_held_out


@pytest.mark.parametrize("holdout", [1e-6, 1 - 1e-6])
def test_each_class_has_files_in_both_splits(folder, holdout):
    train, held_out = sides(folder, holdout)
    alone = held_out if holdout < 0.5 else train
    choose = min if holdout < 0.5 else max
    assert alone == {
        choose(
            ((label, f"{i}.flac") for i in range(count)),
            key=lambda file: zlib.crc32("/".join(file).encode()),
        )
        for label, count in (("dog", 10), ("cat", 20))
    }
    assert len(train | held_out) == 30


def test_other_files_are_ignored(folder):
    train, held_out = sides(folder)
    (folder / "dog" / "._1.wav").write_bytes(b"what macOS keeps beside 1.wav")
    (folder / "dog" / "x.wav").mkdir()
    assert sides(folder) == [train, held_out]


@pytest.mark.parametrize("name", ["x.WAV", "x.opus", "x.oga", "x.aifc", "x.aif", "x.mp3", "x.snd"])
def test_sound_files_of_many_formats_are_found(folder, name):
    kinds = {"opus": "OGG", "oga": "OGG", "aifc": "AIFF", "aif": "AIFF", "snd": "AU"}
    ending = name.split(".")[1].lower()
    soundfile.write(
        folder / "dog" / name, np.zeros(8000), 16000, format=kinds.get(ending, ending.upper()),
        subtype="OPUS" if ending == "opus" else None,
    )  # fmt: skip
    assert ("dog", name) in set.union(*sides(folder))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "has no folders; give one with a folder for each class"),
        (
            lambda path: [write_sound(path / x / "1.wav") for x in ("dog", "cat")],
            "no class has two sound files",
        ),
    ],
)
def test_a_folder_unfit_for_training_is_refused(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(InputError, match=message):
        read_folder(tmp_path, FolderData(), 16000)


def test_a_recording_shorter_than_one_frame_is_named(folder):
    write_sound(folder / "dog" / "short.flac", seconds=0.01)
    with pytest.raises(InputError, match=r"short\.flac: lasts 10 ms"):
        read_folder(folder, FolderData(), 16000)


def test_a_missing_folder_is_named(tmp_path):
    config = TrainConfig(data=FolderData(dir=str(tmp_path / "none")))
    with pytest.raises(InputError, match="none: no such folder"):
        load_data(config)


def test_synthetic_sounds_differ_and_repeat_with_the_seed():
    first = make_synthetic(2, 1, seed=0)
    again = make_synthetic(2, 1, seed=0)
    assert len(first.labels) == len(SOUNDS) >= 8
    assert len(first.train.waveforms) == 2 * len(SOUNDS)
    everything = [*first.train.waveforms, *first.evaluation.waveforms]
    for a, b in zip(everything, [*again.train.waveforms, *again.evaluation.waveforms], strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({waveform.tobytes() for waveform in everything}) == len(everything)


@pytest.mark.parametrize("label", SOUNDS)
def test_synthetic_sounds_are_audible_and_within_range(label):
    for seed in range(5):
        waveform = synthesize(label, np.random.default_rng(seed))
        assert waveform.dtype == np.float32
        assert waveform.shape == (20000,)
        assert np.isfinite(waveform).all()
        assert 0.01 < np.abs(waveform).max() <= 1


def test_unseen_clips_are_not_in_the_training_set(tmp_path):
    write_unseen(tmp_path / "unseen", seed=0)
    data = make_synthetic(3, 3, seed=0)
    files = sorted((tmp_path / "unseen").iterdir())
    assert [file.stem for file in files] == sorted(SOUNDS)
    known = [*data.train.waveforms, *data.evaluation.waveforms]
    for file in files:
        waveform = soundfile.read(file, dtype="float32")[0]
        assert min(np.abs(waveform - other).max() for other in known) > 0.01
