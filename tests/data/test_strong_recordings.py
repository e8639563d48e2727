import numpy as np
import pytest
import soundfile

from ast_jax.columns import Columns
from ast_jax.config import StrongData
from ast_jax.data.strong_recordings import read_strong
from ast_jax.errors import InputError
from ast_jax.models.config import ASTConfig

COLUMNS = Columns.of(ASTConfig(max_length=128), 16000)  # 1.295 s, 12 columns


def write(folder, rows, seconds, name="events.csv"):
    """Writes a list and its recordings, of noise."""
    rng = np.random.default_rng(0)
    lines = ["filename,start,end,label", *(",".join(map(str, row)) for row in rows)]
    (folder / name).write_text("\n".join(lines) + "\n")
    for file, length in seconds.items():
        soundfile.write(folder / file, rng.uniform(-0.1, 0.1, int(16000 * length)), 16000)
    return str(folder / name)


def test_long_recordings_are_cut_into_inputs_with_their_part_of_the_labels(tmp_path):
    rows = [("a.wav", 0.2, 0.4, "dog"), ("a.wav", 2.9, 3.1, "cat"), ("b.wav", 0, 1, "dog")]
    rows += [("c.wav", 0.1, 0.3, "cat")]
    file = write(tmp_path, rows, {"a.wav": 4, "b.wav": 1, "c.wav": 1})
    data = read_strong(StrongData(train=file, evaluation=file), COLUMNS)
    clips = data.train
    assert data.labels == ["cat", "dog"]
    assert "1 of 3 last longer than the model's input, 1.29 s; all are cut into 6" in data.notes[0]
    # 39 columns: three inputs follow each other, and the last is moved back to end at 4 s.
    assert [each.first for each in clips.strong.inputs] == [0, 12, 24, 27, 0, 0]
    assert [name.rpartition("/")[2] for name in clips.names] == [
        "a.wav", "a.wav at 1.20 s", "a.wav at 2.40 s", "a.wav at 2.70 s", "b.wav", "c.wav",
    ]  # fmt: skip
    assert [len(waveform) for waveform in clips.waveforms] == [20720] * 4 + [16000] * 2
    np.testing.assert_array_equal(clips.targets, [[0, 1], [0, 0], [1, 0], [1, 0], [0, 1], [1, 0]])
    assert clips.target_shape == clips.target(0).shape == (12, 2)
    np.testing.assert_array_equal(np.flatnonzero(clips.target(2)[:, 0]), [5, 6])
    np.testing.assert_array_equal(np.flatnonzero(clips.target(3)[:, 0]), [2, 3])
    assert clips.all_targets().shape == (39 + 9 + 9, 2)  # each column of sound once


def test_a_share_of_the_recordings_is_held_out_without_a_second_list(tmp_path):
    rows = [(f"{i}.wav", 0.1, 0.5, "dog" if i % 2 else "cat") for i in range(10)]
    file = write(tmp_path, rows, {f"{i}.wav": 1 for i in range(10)})
    data = read_strong(StrongData(train=file), COLUMNS)
    assert (len(data.train.names), len(data.evaluation.names)) == (8, 2)
    assert not set(data.train.names) & set(data.evaluation.names)
    assert data.evaluation.class_counts().tolist() == [1, 1]
    with pytest.raises(InputError, match="no class is in two recordings"):
        read_strong(StrongData(train=write(tmp_path, rows[:2], {}, "few.csv")), COLUMNS)


def test_events_that_overlap_another_of_their_class_or_the_end_are_noted(tmp_path):
    rows = [("a.wav", 0.1, 0.5, "dog"), ("a.wav", 0.4, 0.7, "dog"), ("a.wav", 0.8, 1.5, "cat")]
    file = write(tmp_path, rows, {"a.wav": 1})
    data = read_strong(StrongData(train=file, evaluation=file), COLUMNS)
    np.testing.assert_allclose(data.train.strong.events[0], [(0.8, 1, 0), (0.1, 0.7, 1)])
    notes = " ".join(data.notes)
    assert "1 events end after their recording" in notes
    assert "1 events that touch another of their class are merged" in notes


def test_lists_that_do_not_fit_the_recordings_or_each_other_are_refused(tmp_path):
    file = write(tmp_path, [("a.wav", 0.1, 0.5, "dog")], {"a.wav": 1})
    other = write(tmp_path, [("a.wav", 0.1, 0.5, "cow")], {}, "other.csv")
    late = write(tmp_path, [("a.wav", 1000, 1500, "dog")], {}, "late.csv")
    with pytest.raises(InputError, match=r"other\.csv: has the class 'cow', of a\.wav"):
        read_strong(StrongData(train=file, evaluation=other), COLUMNS)
    with pytest.raises(InputError, match=r"line 2: a\.wav lasts 1\.00 s, and an event begins at"):
        read_strong(StrongData(train=late, evaluation=file), COLUMNS)
    with pytest.raises(InputError, match=r"data\.train is not set"):
        read_strong(StrongData(), COLUMNS)


def test_a_mixup_partner_has_no_events_after_the_end_of_the_mix(tmp_path):
    rows = [("a.wav", 0.1, 0.2, "dog"), ("a.wav", 0.8, 0.9, "dog")]
    file = write(tmp_path, rows, {"a.wav": 1})
    clips = read_strong(StrongData(train=file, evaluation=file), COLUMNS).train
    assert clips.target(0).sum() == 2
    np.testing.assert_array_equal(np.flatnonzero(clips.target(0, samples=8000)), [1])
