import csv

import numpy as np
import pytest
import soundfile

from ast_jax.audio.fbank import fbank
from ast_jax.config import DataConfig, TrainConfig
from ast_jax.data.clips import Clips
from ast_jax.data.datasets import load_data, log_mel_statistics
from ast_jax.data.esc50 import read_esc50
from ast_jax.data.folder import read_folder
from ast_jax.data.synthetic import SOUNDS, make_synthetic, synthesize, write_unseen
from ast_jax.errors import InputError


def write_sound(path, seconds=0.2, rate=22050, level=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    soundfile.write(path, level * rng.standard_normal(int(seconds * rate)), rate)


@pytest.fixture
def esc(tmp_path):
    """A small ESC-50: two classes, targets 7 and 41, two clips a fold."""
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


def test_esc50_holds_one_fold_out_and_numbers_the_classes_that_occur(esc):
    data = read_esc50(esc, fold=2, sampling_rate=16000)
    assert data.labels == ["rooster call", "chainsaw"]  # by target
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


def test_esc50_names_the_list_when_the_folder_is_another(tmp_path):
    with pytest.raises(InputError, match=r"meta/esc50\.csv: no such file"):
        read_esc50(tmp_path, 1, 16000)


def test_esc50_names_the_line_of_a_malformed_row(esc):
    file = esc / "meta" / "esc50.csv"
    file.write_text(file.read_text().replace("3-1-A-7.wav,3,7", "3-1-A-7.wav,three,7"))
    with pytest.raises(InputError, match=r"esc50\.csv, line 7: fold and target"):
        read_esc50(esc, 1, 16000)


def test_esc50_names_a_missing_column(esc):
    file = esc / "meta" / "esc50.csv"
    file.write_text(file.read_text().replace("fold", "split", 1))
    with pytest.raises(InputError, match=r"esc50\.csv.*'fold'"):
        read_esc50(esc, 1, 16000)


def test_esc50_names_a_recording_that_is_damaged(esc):
    (esc / "audio" / "4-1-A-7.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"4-1-A-7\.wav"):
        read_esc50(esc, 1, 16000)


def test_the_real_esc10_has_320_clips_to_train_on_and_80_held_out(esc10):
    with (esc10 / "meta" / "esc50.csv").open() as file:
        folds = [row["fold"] for row in csv.DictReader(file)]
    assert folds.count("1") == 80
    assert len(folds) == 400


@pytest.fixture
def folder(tmp_path):
    for label, count in (("dog", 5), ("cat", 10)):
        for i in range(count):
            write_sound(tmp_path / label / f"{i}.flac")
    (tmp_path / "dog" / "notes.txt").write_text("not a sound")
    return tmp_path


def test_a_folder_gives_a_class_a_folder_and_holds_some_of_each_out(folder):
    data = read_folder(folder, holdout=0.2, sampling_rate=16000)
    assert data.labels == ["cat", "dog"]
    assert data.evaluation.targets.sum(axis=0).tolist() == [2, 1]
    assert data.train.targets.sum(axis=0).tolist() == [8, 4]
    assert not set(data.train.names) & set(data.evaluation.names)


def test_a_file_stays_on_its_side_when_the_folder_moves(folder, tmp_path_factory):
    before = read_folder(folder, 0.2, 16000)
    moved = folder.rename(tmp_path_factory.mktemp("elsewhere") / "sounds")
    after = read_folder(moved, 0.2, 16000)
    tails = [[name.split("/")[-2:] for name in data.evaluation.names] for data in (before, after)]
    assert tails[0] == tails[1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "holds 0 class folders"),
        (lambda path: write_sound(path / "dog" / "1.wav"), "holds 1 class folders"),
        (
            lambda path: [write_sound(path / x / "1.wav") for x in ("dog", "cat")],
            "cat: holds 1 sound files",
        ),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused(tmp_path, make, said):
    make(tmp_path)
    with pytest.raises(InputError, match=said):
        read_folder(tmp_path, 0.2, 16000)


def test_a_recording_shorter_than_one_frame_is_named(folder):
    write_sound(folder / "dog" / "short.flac", seconds=0.01)
    with pytest.raises(InputError, match=r"short\.flac: lasts 10 ms"):
        read_folder(folder, 0.2, 16000)


def test_a_missing_folder_is_named(tmp_path):
    config = TrainConfig(data=DataConfig(kind="folder", dir=str(tmp_path / "none")))
    with pytest.raises(InputError, match="none: no such folder"):
        load_data(config)


def test_synthetic_sounds_are_new_each_time_and_the_same_from_a_seed():
    first = make_synthetic(2, 1, seed=0)
    again = make_synthetic(2, 1, seed=0)
    assert len(first.labels) == len(SOUNDS) >= 8
    assert len(first.train.waveforms) == 2 * len(SOUNDS)
    everything = [*first.train.waveforms, *first.evaluation.waveforms]
    for a, b in zip(everything, [*again.train.waveforms, *again.evaluation.waveforms], strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({waveform.tobytes() for waveform in everything}) == len(everything)


@pytest.mark.parametrize("label", SOUNDS)
def test_every_synthetic_sound_is_audible_and_within_range(label):
    for seed in range(5):
        waveform = synthesize(label, np.random.default_rng(seed))
        assert waveform.dtype == np.float32
        assert waveform.shape == (20000,)
        assert np.isfinite(waveform).all()
        assert 0.01 < np.abs(waveform).max() <= 1


def test_unseen_clips_are_none_of_the_training(tmp_path):
    write_unseen(tmp_path / "unseen", seed=0)
    data = make_synthetic(3, 3, seed=0)
    files = sorted((tmp_path / "unseen").iterdir())
    assert [file.stem for file in files] == sorted(SOUNDS)
    known = [*data.train.waveforms, *data.evaluation.waveforms]
    for file in files:
        waveform = soundfile.read(file, dtype="float32")[0]
        assert min(np.abs(waveform - other).max() for other in known) > 0.01


def test_statistics_are_those_of_all_unpadded_log_mels():
    rng = np.random.default_rng(0)
    waveforms = [rng.uniform(-1, 1, n).astype(np.float32) for n in (3000, 9000)]
    clips = Clips(waveforms, np.eye(2, dtype=np.float32), ["a", "b"])
    values = np.concatenate([fbank(x, num_mel_bins=32).ravel() for x in waveforms])
    mean, std = log_mel_statistics(clips, 16000, 32)
    assert mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-6)
    assert std == pytest.approx(values.std(dtype=np.float64), rel=1e-6)
