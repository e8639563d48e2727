import json

import numpy as np
import pytest
from scipy.sparse import csr_array

from ast_jax.audio.fbank import fbank
from ast_jax.audio.feature_extractor import pad_or_cut
from ast_jax.data import statistics
from ast_jax.data.clips import Clips
from ast_jax.data.statistics import measure, read_statistics, write_statistics
from ast_jax.errors import InputError


@pytest.fixture
def clips():
    rng = np.random.default_rng(0)
    waveforms = [rng.uniform(-1, 1, n).astype(np.float32) for n in (3000, 9000, 16000)]
    targets = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1]], np.float32)
    return Clips(waveforms, targets, ["a", "b", "c"])


def log_mels(clips):
    return [fbank(x, num_mel_bins=32) for x in clips.waveforms]


def test_statistics_cover_all_unpadded_log_mels(clips):
    values = np.concatenate([log_mel.ravel() for log_mel in log_mels(clips)])
    measured = measure(clips, ["x", "y", "z"], 16000, 32)
    assert measured.mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-6)
    assert measured.std == pytest.approx(values.std(dtype=np.float64), rel=1e-6)


def test_durations_and_classes_are_counted(clips):
    measured = measure(clips, ["x", "y", "z"], 16000, 32)
    assert measured.clips == 3
    assert measured.hours == pytest.approx(28000 / 16000 / 3600)
    assert (measured.shortest, measured.longest) == (3000 / 16000, 1.0)
    assert measured.classes == {"x": 2, "y": 0, "z": 2}
    sparse = clips._replace(targets=csr_array(clips.targets))
    assert measure(sparse, ["x", "y", "z"], 16000, 32) == measured


def test_padded_statistics_average_batches_as_the_original_does(clips, monkeypatch):
    monkeypatch.setattr(statistics, "BATCH", 2)
    padded = np.stack([pad_or_cut(log_mel, 50) for log_mel in log_mels(clips)])
    measured = measure(clips, ["x", "y", "z"], 16000, 32, padded_to=50)
    assert measured.mean == pytest.approx((padded[:2].mean() + padded[2:].mean()) / 2, rel=1e-5)
    assert measured.std == pytest.approx((padded[:2].std() + padded[2:].std()) / 2, rel=1e-5)


def test_any_number_of_processes_measures_the_same(clips):
    labels = ["x", "y", "z"]
    assert measure(clips, labels, 16000, 32, processes=2) == measure(clips, labels, 16000, 32)


def test_saved_statistics_are_read_for_the_same_splits_and_mel_bins(clips, tmp_path):
    assert read_statistics(tmp_path, "train") == {}
    measured = measure(clips, ["x", "y", "z"], 16000, 32)
    write_statistics(tmp_path, "train", 32, 0, measured)
    write_statistics(tmp_path, "train", 128, 0, measured._replace(mean=-3.0))
    write_statistics(tmp_path, "train", 32, 1024, measured._replace(mean=7.0))
    write_statistics(tmp_path, "a+b", 32, 0, measured._replace(mean=8.0))
    assert read_statistics(tmp_path, "train") == {
        32: (measured.mean, measured.std),
        128: (-3.0, measured.std),
    }
    assert read_statistics(tmp_path, "test") == {}


@pytest.mark.parametrize(
    "content",
    [[], {"train": 3}, {"train": {"unpadded": {"x": {}}}}, {"train": {"unpadded": {"32": {}}}}]
    + [{"train": {"unpadded": {"32": {"mean": m, "std": s}}}} for m, s in ((0, 0), ("a", 1))],
)
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "statistics.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"statistics\.json: damaged \(.*\); remove it and run"):
        read_statistics(tmp_path, "train")
