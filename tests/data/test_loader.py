import csv
import os
import sys
import threading

import numpy as np
import pytest
import soundfile

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.data.batches import EvaluationBatches, InputBuilder, TrainBatches
from ast_jax.data.clips import Clips
from ast_jax.data.loader import stream
from ast_jax.data.prepare.run_builder import prepare
from ast_jax.data.prepared import open_prepared
from ast_jax.errors import InputError

INPUTS = InputBuilder(ASTFeatureExtractor(max_length=32, num_mel_bins=16, mean=-6.0, std=5.0))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Returns the clips of a prepared set with two files."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    with (folder / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "labels", "split"])
        for i in range(12):
            soundfile.write(folder / f"{i}.wav", rng.uniform(-1, 1, 1000 + 300 * i), 16000)
            rows.writerow([f"{i}.wav", "ab"[i % 5 == 0], "one" if i < 7 else "two"])
    prepare("csv", folder, folder / "prepared")
    return open_prepared(folder / "prepared").clips("one+two")


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        assert list(a) == list(b)
        for name, array in a.items():
            assert array.dtype == b[name].dtype
            np.testing.assert_array_equal(array, b[name])


@pytest.mark.parametrize(("on_device", "with_tensorflow"), [(0, 1), (1, 1), (1, 0)])
def test_threads_give_the_same_batches_as_sequential_calls(
    clips, on_device, with_tensorflow, monkeypatch
):
    if not with_tensorflow:
        monkeypatch.setitem(sys.modules, "tensorflow", None)
    inputs = InputBuilder(INPUTS.extractor, bool(on_device))
    make = TrainBatches(clips, inputs, seed=3, batch_size=4, mixup=0.5, balanced=True)
    assert_equal(stream(make, range(2, 30, 3)), map(make, range(2, 30, 3)))


def test_any_number_of_workers_gives_the_same_training_from_any_step(clips):
    make = TrainBatches(clips, INPUTS, seed=3, batch_size=4, mixup=0.5, balanced=True)
    whole = list(stream(make, range(12)))
    assert_equal(stream(make, range(12), workers=1), whole)
    assert_equal(stream(make, range(5, 12), workers=3), whole[5:])
    assert_equal(stream(make, range(5, 12)), whole[5:])


def test_evaluation_counts_every_clip_once_with_threads_and_workers(clips):
    make = EvaluationBatches(clips, INPUTS, batch_size=5)
    threads, workers = (list(stream(make, range(len(make)), count)) for count in (0, 2))
    assert_equal(threads, workers)
    assert sum(batch["mask"].sum() for batch in threads) == 12


def test_in_memory_clips_work_with_workers():
    waveforms = [np.full(900, 0.1 * i, np.float32) for i in range(4)]
    make = TrainBatches(Clips(waveforms, np.eye(4, dtype=np.float32), list("abcd")), INPUTS, 0, 2)
    assert_equal(stream(make, range(4), workers=1), map(make, range(4)))


@pytest.mark.parametrize("workers", [0, 2])
def test_zero_batches_give_an_empty_stream(workers):
    assert list(stream(lambda number: {}, range(0), workers)) == []


def test_batches_are_prefetched_in_threads():
    makers, ahead = [], threading.Event()

    def make(number):
        makers.append((os.getpid(), threading.get_ident()))
        if number > 1:
            ahead.set()
        return {"number": np.array([number])}

    batches = stream(make, range(5))
    assert next(batches)["number"].tolist() == [0]
    assert next(batches)["number"].tolist() == [1]
    assert ahead.wait(60)
    assert [batch["number"][0] for batch in batches] == [2, 3, 4]
    assert {pid for pid, _ in makers} == {os.getpid()}


@pytest.mark.parametrize("error", [InputError("clip 3 is damaged; mend it"), KeyError("clip 3")])
def test_an_error_in_a_thread_reaches_the_caller(error):
    def make(number):
        if number == 3:
            raise error
        return {"number": np.array([number])}

    batches = stream(make, range(9))
    assert [next(batches)["number"][0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(type(error), match="clip 3"):
        next(batches)


def test_a_batch_of_another_shape_raises():
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match="shape"):
        list(stream(lambda number: {"x": np.zeros(1 + number)}, range(3)))
