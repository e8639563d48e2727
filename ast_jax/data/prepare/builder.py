"""The TFDS builder of prepared sets.

    builder = AudioBuilder("esc50", source="ESC-50-master", data_dir="prepared")
    builder.download_and_prepare()
    builder.as_data_source("fold1")[0]  # {"id": …, "audio": int16 (samples,), "labels": [0]}

With `DownloadConfig(beam_runner=…)` Apache Beam writes the files, one task per file.
"""

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from ast_jax.data.clips import clipping_notes
from ast_jax.data.prepare.records import RecordWriter, make_features
from ast_jax.data.prepare.shard import Report, Shard, write_shard
from ast_jax.data.prepared import CLIPS_FILE, VERSION
from ast_jax.data.sources import SOURCES
from ast_jax.data.sources.manifest import Manifest
from ast_jax.errors import InputError
from ast_jax.io import LOCK_FILE, json_checksum

SKIPPED_FILE = "skipped.csv"

# A file has 256 clips (80 MB at 10 s each), or more in splits that would need over 512 files:
# readers keep all files open.
CLIPS_PER_SHARD, MAX_SHARDS = 256, 512

# Writes shards: (shards, class names) → their reports, in any order.
WriteShards = Callable[[list[Shard], list[str]], Iterable[Report]]


def write_one_by_one(shards: list[Shard], labels: list[str]) -> Iterable[Report]:
    """Writes the shards in this process."""
    for shard in shards:
        yield write_shard(shard, labels)


class AudioBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Builds a prepared set from a source; the set is named after the kind of source."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        kind: str,
        *,
        source: str | Path,
        classes: str | Path | None = None,
        sampling_rate: int = 16000,
        max_damaged: int = 0,
        scale_loud: bool = False,
        columns: Mapping[str, str] | None = None,
        label_separator: str = "",
        write_shards: WriteShards = write_one_by_one,
        **options: Any,
    ):
        """Lists the source.

        Args:
            kind: a key of `SOURCES`.
            source: the folder or file, see `ast_jax.data.sources`.
            classes: the class CSV of a source without a class list.
            sampling_rate: of the prepared clips, in Hz.
            max_damaged: the number of unreadable sound files to skip; one more is an error.
            scale_loud: whether to divide clips that go beyond 1 by their peak, instead of
                clipping them.
            columns: column names of a CSV file, see `list_csv`.
            label_separator: of a CSV file, see `list_csv`.
            write_shards: writes the files, unless Beam does.
            **options: TFDS's options, such as `data_dir`.

        Raises:
            InputError: the source cannot be used.
        """
        self.name = kind
        self.source = os.path.abspath(source)
        class_list = Path(classes) if classes else None
        reading: dict[str, Any] = {}
        if columns or label_separator:
            if kind != "csv":
                raise InputError(
                    f"--column and --label-separator are for csv, not for {kind}; leave them out"
                )
            reading = {"columns": columns, "label_separator": label_separator}
        self.manifest: Manifest = SOURCES[kind](Path(source), class_list, **reading)
        self.sampling_rate = sampling_rate
        self.max_damaged = max_damaged
        self.scale_loud = scale_loud
        self.damaged: list[str] = []  # a sentence for each skipped file, set at the end
        self.notes: list[str] = []  # sentences about the files, set at the end
        self.write_shards = write_shards
        self.digest = source_digest(self.manifest, scale_loud)
        super().__init__(file_format=tfds.core.FileFormat.ARRAY_RECORD, **options)
        # Survives an interrupted run, which TFDS's own temporary folder does not.
        self.work = epath.Path(self.data_dir).parent / f".{VERSION}.unfinished"

    def _info(self) -> tfds.core.DatasetInfo:
        description = {
            "labels": self.manifest.labels,
            "sampling_rate": self.sampling_rate,
            "source_digest": self.digest,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Clips of {self.name}, mono int16 at {self.sampling_rate} Hz.",
            features=make_features(self.manifest.labels),
            metadata=tfds.core.MetadataDict(description | {"checksum": json_checksum(description)}),
            disable_shuffling=True,
        )

    def _example_writer(self) -> RecordWriter:
        return RecordWriter()

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Shard]]:
        del dl_manager
        work = os.fspath(self.work)
        splits = {}
        for split, examples in self.manifest.splits.items():
            size = max(CLIPS_PER_SHARD, -(-len(examples) // MAX_SHARDS))
            parts = [examples[i : i + size] for i in range(0, len(examples), size)]
            splits[split] = [
                Shard(split, number, part, self.sampling_rate, work, self.scale_loud)
                for number, part in enumerate(parts)
            ]
        return splits

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig | None = None,
    ) -> None:
        self._open_work()
        splits = self._shard_iterators_per_split(dl_manager)
        if download_config and download_config.beam_runner is not None:
            super()._download_and_prepare(dl_manager, download_config)
            infos = [self.info.splits[split] for split in splits]
        else:
            infos = self._write_files(splits)
        reports = {
            split: [s.report() for s in split_shards] for split, split_shards in splits.items()
        }
        # With Beam, TFDS sorts the lengths as 0, 1, 10, 11, …, 2 (a bug).
        infos = [
            info.replace(shard_lengths=[len(r.clips) for r in reports[info.name]]) for info in infos
        ]
        self.info.set_splits(tfds.core.splits.SplitDict(infos))
        every = [report for split_reports in reports.values() for report in split_reports]
        damaged = [line for report in every for line in report.damaged]
        self._check_damaged(damaged)
        self._write_clips(reports)
        self.damaged = damaged
        clipped = [clip for report in every for clip in report.clipped]
        self.notes = [note for report in every for note in report.notes]
        self.notes += clipping_notes(clipped, sum(len(report.clips) for report in every))
        self._write_skipped()

    def _log_download_bytes(self) -> None:
        """Prints nothing, as nothing is downloaded."""

    _log_download_done = _log_download_bytes

    def _write_files(self, splits: dict[str, list[Shard]]) -> list[tfds.core.splits.SplitInfo]:
        """Writes the files that are not up to date and moves all to TFDS's folder."""
        shards = [shard for split_shards in splits.values() for shard in split_shards]
        damaged: list[str] = []
        for report in self.write_shards(shards, self.manifest.labels):
            damaged += report.damaged
            self._check_damaged(damaged)
        return [self._take(split, split_shards) for split, split_shards in splits.items()]

    def _write_skipped(self) -> None:
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["kind", "what"])
        rows.writerows(["missing", line] for line in self.manifest.missing)
        rows.writerows(["damaged", line] for line in self.damaged)
        file = epath.Path(self.data_dir) / SKIPPED_FILE
        file.write_text(text.getvalue(), encoding="utf-8")

    def _open_work(self) -> None:
        """Makes the folder of unfinished files and removes those of another source."""
        # The digest has ids and sizes; different recordings may agree in both.
        paths = hashlib.sha256()
        for examples in self.manifest.splits.values():
            for example in examples:
                paths.update(os.fsencode(example.path) + b"\n")
        content = [self.source, paths.hexdigest(), self.digest, self.sampling_rate]
        content += [self.scale_loud, Report._fields]
        plan = json.dumps([VERSION, CLIPS_PER_SHARD, MAX_SHARDS, *content])
        file = self.work / "plan.json"
        self.work.mkdir(parents=True, exist_ok=True)
        if not (file.exists() and file.read_text() == plan):
            for leftover in self.work.iterdir():
                if leftover.is_dir():
                    leftover.rmtree()
                elif leftover.name != LOCK_FILE:
                    leftover.unlink()
        file.write_text(plan)

    def _take(self, split: str, shards: list[Shard]) -> tfds.core.splits.SplitInfo:
        """Moves a split's files to TFDS's folder; the caller sets the shard lengths."""
        template = self._get_filename_template(split_name=split)
        size = 0
        for shard in shards:
            path = template.sharded_filepath(shard_index=shard.number, num_shards=len(shards))
            size += shard.records.stat().st_size
            shutil.move(shard.records, path)
        return tfds.core.splits.SplitInfo(split, [], size, template)

    def _check_damaged(self, damaged: list[str]) -> None:
        if len(damaged) > self.max_damaged:
            raise InputError(
                f"{damaged[-1]}, or skip such files: --max-damaged is {self.max_damaged} and "
                f"{len(damaged)} cannot be used"
            )

    def _write_clips(self, reports: dict[str, list[Report]]) -> None:
        arrays: dict[str, np.ndarray] = {}
        for split, split_reports in reports.items():
            clips = [clip for report in split_reports for clip in report.clips]
            if not clips:
                raise InputError(f"split {split} has no clip that can be read; repair its files")
            arrays[f"{split}/ids"] = np.array([i for i, _, _ in clips])
            arrays[f"{split}/samples"] = np.array([n for _, _, n in clips], np.int64)
            arrays[f"{split}/labels"] = np.array([c for _, of, _ in clips for c in of], np.int32)
            arrays[f"{split}/label_counts"] = np.array([len(of) for _, of, _ in clips], np.int32)
        with (epath.Path(self.data_dir) / CLIPS_FILE).open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)


def source_digest(manifest: Manifest, scale_loud: bool = False) -> str:
    """Returns a digest of the classes and of each clip's id, classes, size in bytes and segment."""
    digest = hashlib.sha256(json.dumps(manifest.labels).encode())
    if scale_loud:  # the clips of earlier versions were not scaled
        digest.update(b"scale_loud")
    for split, examples in manifest.splits.items():
        for example in examples:
            size = os.stat(example.path).st_size
            clip = [split, example.id, example.labels, size]
            # Sets of earlier versions have no segments.
            digest.update(json.dumps(clip + [example.segment] * bool(example.segment)).encode())
    return digest.hexdigest()
