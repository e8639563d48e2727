"""Decodes the clips of one file of a prepared set and writes it."""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from ast_jax.audio.decode import Recording, read_recording
from ast_jax.audio.pcm import peak_of, to_int16
from ast_jax.data.clips import check_length
from ast_jax.data.prepare.records import RecordWriter, make_features, make_serializer
from ast_jax.data.sources.manifest import Example
from ast_jax.errors import InputError

SLACK = 0.1  # seconds that a segment may end after its file, as lists round times


class Report(NamedTuple):
    """The outcome of writing a shard.

    Attributes:
        clips: (id, classes, number of samples) of each clip in the file, in order.
        damaged: a sentence for each clip that could not be read.
        clipped: the path and the peak of each clip that was clipped.
        notes: sentences about what is unusual in the files.
    """

    clips: list[tuple[str, tuple[int, ...], int]]
    damaged: list[str]
    clipped: list[tuple[str, float]]
    notes: list[str]


@dataclass(frozen=True)
class Shard:
    """Consecutive clips of a split, for one file; decodes them when called. Can be pickled.

    Attributes:
        split: the name of the split.
        number: the index of the file, from 0.
        examples: the clips.
        sampling_rate: the sampling rate to resample to, in Hz.
        folder: the folder of the report, and of the file if `write_shard` writes it.
        scale_loud: whether to divide clips that go beyond 1 by their peak, instead of clipping.
    """

    split: str
    number: int
    examples: list[Example]
    sampling_rate: int
    folder: str
    scale_loud: bool = False

    def __call__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields TFDS's (key, example) of each readable clip, then writes the report."""
        report = Report([], [], [], [])
        read = _Reader(self.sampling_rate, self.scale_loud)
        for example in self.examples:
            try:
                recording = read(example)
                check_length(recording.waveform, self.sampling_rate, example.path)
            except InputError as error:
                report.damaged.append(str(error))
            except OSError as error:
                report.damaged.append(f"{example.path}: {error.strerror or error}")
            else:
                samples = to_int16(recording.waveform)
                report.clips.append((example.id, example.labels, len(samples)))
                if recording.peak > 1 and not self.scale_loud:
                    report.clipped.append((example.path, recording.peak))
                if recording.note:
                    report.notes.append(recording.note)
                record = {"id": example.id, "audio": samples, "labels": example.labels}
                yield example.id, record
                # With Beam, TFDS keeps references to all records until the file is complete.
                record.clear()
        self._report_path.write_text(json.dumps(report), encoding="utf-8")

    @property
    def name(self) -> str:
        """The name of the shard's files, without suffix."""
        return f"{self.split}-{self.number:05d}"

    @property
    def records(self) -> Path:
        """The path of the file that `write_shard` writes."""
        return Path(self.folder) / f"{self.name}.array_record"

    @property
    def _report_path(self) -> epath.Path:
        return epath.Path(self.folder) / f"{self.name}.json"

    def report(self) -> Report:
        """Reads the report, which exists once the clips have been decoded."""
        report = Report(*json.loads(self._report_path.read_text(encoding="utf-8")))
        return report._replace(
            clips=[(i, tuple(labels), samples) for i, labels, samples in report.clips],
            clipped=[(path, peak) for path, peak in report.clipped],
        )


class _Reader:
    """Decodes clips. Keeps the last file, as the segments of a file mostly follow each other."""

    def __init__(self, sampling_rate: int, scale_loud: bool):
        self.sampling_rate = sampling_rate
        self.scale_loud = scale_loud
        self._path = ""
        self._file: Recording | None = None

    def __call__(self, example: Example) -> Recording:
        """Returns a clip; with `scale_loud`, a segment is scaled by the peak of its file.

        Raises:
            InputError: the file cannot be read, or ends more than `SLACK` before the segment.
        """
        if example.segment is None:
            return self._read(example.path)
        if self._file is None or example.path != self._path:
            self._file, self._path = None, example.path
            self._file = self._read(example.path)
            note = self._file.note
        else:
            note = ""  # said with its first segment
        start, end = example.segment
        waveform = self._file.waveform
        lasts = len(waveform) / self.sampling_rate
        if start >= lasts or (end > lasts + SLACK and end != math.inf):
            raise InputError(
                f"{example.path}: lasts {lasts:.6g} s, and the segment from {start:.6g} to "
                f"{end:.6g} s is beyond that; correct the list"
            )
        first, last = (round(min(time, lasts) * self.sampling_rate) for time in (start, end))
        segment = waveform[first:last]
        return self._file._replace(waveform=segment, peak=peak_of(segment), note=note)

    def _read(self, path: str) -> Recording:
        return read_recording(path, self.sampling_rate, scale_loud=self.scale_loud)


def write_shard(
    shard: Shard, labels: list[str], on_clip: Callable[[], None] = lambda: None
) -> Report:
    """Writes the shard's file, atomically, unless it is up to date.

    Calls `on_clip` for each clip of the shard, whether written now, before, or damaged.
    """
    if not _is_written(shard):
        shard.records.unlink(missing_ok=True)
        features = make_features(labels)
        serializer = make_serializer(features)

        def records() -> Iterator[tuple[str, bytes]]:
            for key, example in shard():
                yield key, serializer.serialize_example(features.encode_example(example))
                on_clip()

        # Named after this process, as two runs may write the same shard.
        part = shard.records.with_suffix(f".{os.getppid()}-{os.getpid()}.part")
        try:
            RecordWriter().write(part, records())
            os.replace(part, shard.records)
        finally:
            part.unlink(missing_ok=True)
        report = shard.report()
        for _ in report.damaged:
            on_clip()
        return report
    for _ in shard.examples:
        on_clip()
    return shard.report()


def _is_written(shard: Shard) -> bool:
    """Returns whether the shard's file exists and no sound file has changed since."""
    if not shard.records.exists():
        return False
    written = shard.records.stat().st_mtime_ns
    return all(os.stat(example.path).st_ctime_ns <= written for example in shard.examples)
