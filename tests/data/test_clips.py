import pickle
import re

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from ast_jax.audio.pcm import to_int16
from ast_jax.data.clips import Clips, read_clips
from ast_jax.data.prepare.shard import Shard
from ast_jax.data.sources.manifest import Example
from ast_jax.errors import InputError


@given(st.integers(1, 20), st.integers(1, 8), st.integers(0, 2**32))
def test_sparse_targets_equal_dense_ones(clips, classes, seed):
    targets = (np.random.default_rng(seed).random((clips, classes)) < 0.3).astype(np.float32)
    waveforms, names = [np.zeros(1, np.float32)] * clips, ["x"] * clips
    for held in (targets, csr_array(targets)):
        held = Clips(waveforms, held, names)
        for index in range(clips):
            target = held.target(index)
            assert target.dtype == np.float32
            np.testing.assert_array_equal(target, targets[index])
        assert held.all_targets().dtype == np.float32
        np.testing.assert_array_equal(held.all_targets(), targets)


def test_a_row_of_sparse_targets_can_be_changed_alone():
    clips = Clips([], csr_array(np.eye(2, dtype=np.float32)), [])
    clips.target(0)[:] = 7
    np.testing.assert_array_equal(clips.all_targets(), np.eye(2))


@pytest.mark.parametrize("kind", [np.array, csr_array])
def test_a_clip_counts_for_each_class_that_it_has_a_share_of(kind):
    targets = kind(np.array([[0.9, 0.1, 0], [0.9, 0, 0.1], [1, 0, 0]], np.float32))
    assert Clips([], targets, []).class_counts().tolist() == [3, 1, 1]


def test_lengths_are_measured_or_given():
    waveforms = [np.zeros(n, np.int16) for n in (3, 5)]
    assert Clips(waveforms, np.eye(2), ["a", "b"]).lengths() == [3, 5]
    given = Clips(waveforms, np.eye(2), ["a", "b"], np.array([30, 50]))
    assert given.lengths() == [30, 50]
    assert {type(length) for length in given.lengths()} == {int}


def test_clips_can_be_pickled():
    clips = Clips([np.zeros(3, np.int16)], csr_array(np.ones((1, 2), np.float32)), ["a"])
    copy = pickle.loads(pickle.dumps(clips))
    np.testing.assert_array_equal(copy.target(0), [1, 1])


def test_recordings_are_read_in_order_and_resampled(tmp_path):
    rng = np.random.default_rng(0)
    examples = []
    for i in range(6):
        soundfile.write(tmp_path / f"{i}.wav", rng.uniform(-0.5, 0.5, 800 * (i + 1)), 8000)
        examples.append(Example(str(i), str(tmp_path / f"{i}.wav"), (i % 3,)))
    clips, notes = read_clips(examples, 4, 16000, "clips")
    assert notes == []
    assert clips.lengths() == [1600 * (i + 1) for i in range(6)]
    assert clips.all_targets().argmax(axis=1).tolist() == [0, 1, 2, 0, 1, 2]
    assert clips.all_targets().shape == (6, 4)
    assert clips.names == [example.path for example in examples]


def test_an_invalid_recording_is_named(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(399), 16000)
    for name, message in (
        ("short", r"short\.wav: lasts 24.94 ms, less than one frame"),
        ("none", r"none\.wav does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            read_clips([Example(name, str(tmp_path / f"{name}.wav"), (0,))], 1, 16000, "clips")


def test_all_invalid_recordings_are_named_at_once(tmp_path):
    soundfile.write(tmp_path / "good.wav", np.zeros(800), 16000)
    names = ["a", "good", *(str(i) for i in range(24))]
    examples = [Example(name, str(tmp_path / f"{name}.wav"), (0,)) for name in names]
    with pytest.raises(InputError) as caught:
        read_clips(examples, 1, 16000, "training recordings")
    message = str(caught.value)
    assert message.startswith("25 of 26 training recordings cannot be used: ")
    assert [f"{name}.wav does not exist" in message for name in ("a", "0", "8", "9")] == [
        True,
        True,
        True,
        False,
    ]
    assert message.endswith("; and 15 more")


def test_loud_clips_are_clipped_as_in_prepared_sets_and_counted(tmp_path):
    samples = np.random.default_rng(0).uniform(-2, 2, 4000).astype(np.float32)
    examples = []
    for i, level in enumerate((0.1, 0.6, 1, 16000)):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, level * samples, 16000, "FLOAT")
        examples.append(Example(str(i), str(path), (0,)))

    def read(count, **options):
        clips, notes = read_clips(examples[:count], 1, 16000, "clips", **options)
        shard = Shard("train", 0, examples[:count], 16000, str(tmp_path), **options)
        prepared = [clip["audio"] for _, clip in shard()]
        for waveform, stored in zip(clips.waveforms, prepared, strict=True):
            np.testing.assert_array_equal(to_int16(waveform), stored)
            assert np.abs(waveform).max() <= 1
        assert shard.report().clipped == [
            (example.path, pytest.approx(level * np.abs(samples).max()))
            for example, level in zip(examples[1:count], (0.6, 1, 16000), strict=False)
            if not options
        ]
        return clips, notes

    assert read(1)[1] == []
    (note,) = read(2)[1]
    assert re.fullmatch(r"1 of 2 clips go beyond .* the loudest reaches 1\.2, '.*1\.wav'", note)
    (note,) = read(4)[1]
    assert re.fullmatch(
        r"3 of 4 clips .* reaches 3\.199e\+04, '.*3\.wav'; scale such clips, as scale_loud .*", note
    )
    clips, notes = read(4, scale_loud=True)
    assert notes == []
    np.testing.assert_allclose(clips.waveforms[3], clips.waveforms[2], atol=1e-6)
