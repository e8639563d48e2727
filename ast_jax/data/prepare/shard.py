"""One file of a prepared set: some of a split's clips, in order."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from ast_jax.audio.decode import load_audio
from ast_jax.audio.kaldi import frame_sizes
from ast_jax.audio.pcm import to_int16
from ast_jax.data.prepare.records import RecordWriter, make_features, make_serializer
from ast_jax.data.sources.manifest import Example
from ast_jax.errors import InputError


class Report(NamedTuple):
    """What became of a shard's clips.

    Attributes:
        clips: (id, classes, samples) of each that is in the file, in order.
        damaged: a sentence for each that could not be read.
    """

    clips: list[tuple[str, tuple[int, ...], int]]
    damaged: list[str]


@dataclass(frozen=True)
class Shard:
    """The clips of one file, read when it is called; nothing in it is bound to a machine.

    Attributes:
        split: the split they are of.
        number: the file's, from 0.
        entries: the clips.
        sampling_rate: what they are resampled to, in Hz.
        folder: where the report goes, and the file if `write_shard` writes it.
    """

    split: str
    number: int
    entries: list[Example]
    sampling_rate: int
    folder: str

    def __call__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """TFDS's (key, example) of each clip that can be read; reports once all are read."""
        report = Report([], [])
        shortest, _ = frame_sizes(self.sampling_rate)
        for entry in self.entries:
            try:
                samples = to_int16(load_audio(entry.path, self.sampling_rate))
                if len(samples) < shortest:
                    raise InputError(f"{entry.path}: is shorter than one frame of 25 ms")
            except InputError as error:
                report.damaged.append(str(error))
            except OSError as error:
                report.damaged.append(f"{entry.path}: {error.strerror or error}")
            else:
                report.clips.append((entry.id, entry.labels, len(samples)))
                example = {"id": entry.id, "audio": samples, "labels": entry.labels}
                yield entry.id, example
                # TFDS's writer under Beam keeps all that was yielded until the file is whole.
                example.clear()
        self._report_path.write_text(json.dumps(report), encoding="utf-8")

    @property
    def name(self) -> str:
        """Of its files, without an ending."""
        return f"{self.split}-{self.number:05d}"

    @property
    def records(self) -> Path:
        """The file that `write_shard` writes."""
        return Path(self.folder) / f"{self.name}.array_record"

    @property
    def _report_path(self) -> epath.Path:
        return epath.Path(self.folder) / f"{self.name}.json"

    def report(self) -> Report:
        """What became of its clips, once they are read."""
        clips, damaged = json.loads(self._report_path.read_text(encoding="utf-8"))
        return Report([(i, tuple(labels), samples) for i, labels, samples in clips], damaged)


def write_shard(
    shard: Shard, labels: list[str], on_clip: Callable[[], None] = lambda: None
) -> Report:
    """Writes the shard's file unless it is there already; it is there only whole.

    `on_clip` is called for each of the shard's clips, written now, before or never.
    """
    if not _is_written(shard):
        shard.records.unlink(missing_ok=True)
        features = make_features(labels)
        serializer = make_serializer(features)

        def records() -> Iterator[tuple[str, bytes]]:
            for key, example in shard():
                yield key, serializer.serialize_example(features.encode_example(example))
                on_clip()

        # A name of this process's own, should two of them be at the same shard.
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
    for _ in shard.entries:
        on_clip()
    return shard.report()


def _is_written(shard: Shard) -> bool:
    """Whether the shard's file is there and no sound file has changed since, or been mended."""
    if not shard.records.exists():
        return False
    written = shard.records.stat().st_mtime_ns
    return all(os.stat(entry.path).st_ctime_ns <= written for entry in shard.entries)
