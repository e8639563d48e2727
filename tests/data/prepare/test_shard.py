import dataclasses
import math
import pickle

import numpy as np
import pytest
import soundfile

import ast_jax.data.prepare.shard
from ast_jax.audio.decode import load_audio, read_recording
from ast_jax.audio.pcm import to_int16
from ast_jax.data.prepare.shard import Report, Shard, write_shard
from ast_jax.data.recorded_waveforms import RecordedWaveforms
from ast_jax.data.sources.manifest import Example

LABELS = ["x", "y", "z"]


def write(path, samples=800, rate=16000):
    rng = np.random.default_rng(len(path.name))
    soundfile.write(path, rng.uniform(-1, 1, samples), rate)
    return str(path)


@pytest.fixture
def shard(tmp_path):
    (tmp_path / "work").mkdir()
    labels = [(0,), (0, 1, 2), (), (2,)]
    examples = [
        Example(f"clip {i}", write(tmp_path / f"{i}.wav", 800 + i), of)
        for i, of in enumerate(labels)
    ]
    return Shard("train", 3, examples, 16000, str(tmp_path / "work"))


def damage(example):
    with open(example.path, "wb") as file:
        file.write(b"no sound")


def files(shard):
    return sorted(path.name for path in shard.records.parent.iterdir())


def test_a_shard_has_its_clips_in_order_with_any_number_of_labels(shard):
    report = write_shard(shard, LABELS)
    assert report.damaged == []
    assert report.clips == [(e.id, e.labels, 800 + i) for i, e in enumerate(shard.examples)]
    waveforms = RecordedWaveforms([(str(shard.records), 4)])
    for example, waveform in zip(shard.examples, waveforms, strict=True):
        np.testing.assert_array_equal(waveform, to_int16(load_audio(example.path)))
    assert shard.report() == report
    assert files(shard) == ["train-00003.array_record", "train-00003.json"]


def test_int16_recordings_are_stored_exactly(shard):
    samples = np.random.default_rng(0).integers(-32768, 32768, 900).astype(np.int16)
    soundfile.write(shard.examples[0].path, samples, 16000)
    write_shard(shard, LABELS)
    np.testing.assert_array_equal(RecordedWaveforms([(str(shard.records), 4)])[0], samples)


def test_recordings_of_another_rate_are_resampled(shard):
    write(shard.records.parent.parent / "0.wav", 1000, rate=8000)
    assert write_shard(shard, LABELS).clips[0] == ("clip 0", (0,), 2000)


def test_unreadable_clips_are_skipped_and_reported_by_path(shard, tmp_path):
    damage(shard.examples[0])
    write(tmp_path / "1.wav", 399)
    (tmp_path / "3.wav").unlink()
    report = write_shard(shard, LABELS)
    assert [id for id, _, _ in report.clips] == ["clip 2"]
    message = ["cannot be read as audio", "less than one frame of 25 ms", "does not exist"]
    for line, index, what in zip(report.damaged, (0, 1, 3), message, strict=True):
        assert line.startswith(str(tmp_path / f"{index}.wav"))
        assert what in line
    waveform = RecordedWaveforms([(str(shard.records), 1)])[0]
    np.testing.assert_array_equal(waveform, to_int16(load_audio(tmp_path / "2.wav")))


def test_an_os_error_is_reported_by_path(shard, monkeypatch):
    def refuse(path, rate, **options):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(ast_jax.data.prepare.shard, "read_recording", refuse)
    report = write_shard(shard, LABELS)
    assert report.damaged == [f"{example.path}: Permission denied" for example in shard.examples]
    assert report.clips == []
    assert shard.records.exists()


def test_the_shortest_valid_clip_is_one_frame(shard, tmp_path):
    write(tmp_path / "0.wav", 400)
    assert write_shard(shard, LABELS).damaged == []


def test_every_clip_is_counted_as_written_or_skipped(shard):
    damage(shard.examples[1])
    counted = []
    write_shard(shard, LABELS, lambda: counted.append(1))
    assert len(counted) == len(shard.examples)
    write_shard(shard, LABELS, lambda: counted.append(1))
    assert len(counted) == 2 * len(shard.examples)


def test_a_finished_shard_is_not_decoded_again(shard, monkeypatch):
    report = write_shard(shard, LABELS)
    monkeypatch.setattr(ast_jax.data.prepare.shard, "read_recording", None)
    assert write_shard(shard, LABELS) == report


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_an_interrupted_shard_leaves_no_file_and_is_written_again(shard, monkeypatch, error):
    def fail(path, rate, **options):
        if path == shard.examples[2].path:
            raise error
        return read_recording(path, rate, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ast_jax.data.prepare.shard, "read_recording", fail)
        with pytest.raises(error):
            write_shard(shard, LABELS)
    assert files(shard) == []
    assert len(write_shard(shard, LABELS).clips) == 4


def test_a_killed_processs_temporary_file_is_no_shard(shard):
    (shard.records.parent / "train-00003.99.part").write_bytes(bytes(70000))
    (shard.records.parent / "train-00003.json").write_text("[[")
    assert len(write_shard(shard, LABELS).clips) == 4


def test_a_shard_can_be_pickled(shard):
    assert pickle.loads(pickle.dumps(shard)) == shard
    assert [key for key, _ in pickle.loads(pickle.dumps(shard))()] == [e.id for e in shard.examples]


def test_segments_are_cut_from_their_file_which_is_decoded_once(shard, tmp_path, monkeypatch):
    path = write(tmp_path / "long.wav", 8000, 8000)  # 1 s, resampled to 16 kHz
    segments = [(0, 0.25), (0.25, 1), (0.5, 1.1), (0.75, math.inf)]
    examples = [Example(str(i), path, (0,), segment) for i, segment in enumerate(segments)]
    late = [(1, 2), (0.5, 1.2), (3, math.inf), (0.5, 0.501)]
    examples += [Example(str(i), path, (0,), segment) for i, segment in enumerate(late)]
    decoded = []

    def load(path, rate, **options):
        decoded.append(path)
        return read_recording(path, rate, **options)

    monkeypatch.setattr(ast_jax.data.prepare.shard, "read_recording", load)
    report = write_shard(dataclasses.replace(shard, examples=examples), LABELS)
    assert decoded == [path]
    waveforms = RecordedWaveforms([(str(shard.records), 4)])
    whole = to_int16(load_audio(path))
    for waveform, (start, end) in zip(
        waveforms, [(0, 4000), (4000, None), (8000, None), (12000, None)], strict=True
    ):
        np.testing.assert_array_equal(waveform, whole[start:end])
    beyond = [line for line in report.damaged if "lasts 1 s, and the segment from" in line]
    assert len(beyond) == 3
    assert "less than one frame of 25 ms" in report.damaged[-1]


def test_yielded_clips_are_freed_before_the_next(shard):
    # TFDS keeps all examples of a file under Beam.
    examples = [example for _, example in shard()]
    assert examples == [{}] * 4


def test_ids_and_paths_of_any_language_are_reported(shard, tmp_path):
    examples = [Example("क 犬.wav", write(tmp_path / "犬 é.wav"), (1,))]
    shard = Shard("a.b", 0, examples, 16000, shard.folder)
    assert write_shard(shard, LABELS) == Report([("क 犬.wav", (1,), 800)], [], [], [])
    assert "a.b-00000.array_record" in files(shard)
