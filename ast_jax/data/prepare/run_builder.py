"""Prepares a data set, in several processes or with Beam, showing progress."""

import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ast_jax.audio.waveform import check_sampling_rate
from ast_jax.data.prepare.builder import VERSION, AudioBuilder, write_one_by_one
from ast_jax.data.prepare.shard import Report, Shard, write_shard
from ast_jax.data.process_pool import start_pool
from ast_jax.errors import InputError
from ast_jax.io import hold_folder


class Prepared(NamedTuple):
    """The result of `prepare`.

    Attributes:
        folder: the folder of the prepared set.
        splits: the number of clips of each split.
        missing: a sentence for each clip without a sound file.
        damaged: a sentence for each sound file that could not be read.
        digest: the digest of the source.
        notes: sentences about the source, such as files passed over, and about its sounds.
    """

    folder: Path
    splits: dict[str, int]
    missing: list[str]
    damaged: list[str]
    digest: str
    notes: Sequence[str] = ()


def prepare(
    name: str,
    source: str | Path,
    output: str | Path,
    *,
    classes: str | Path | None = None,
    sampling_rate: int = 16000,
    processes: int = 1,
    max_damaged: int = 0,
    scale_loud: bool = False,
    columns: Mapping[str, str] | None = None,
    label_separator: str = "",
    beam_runner: str = "",
    beam_options: Iterable[str] = (),
) -> Prepared:
    """Prepares a source as `output/name/version`, resuming an interrupted run.

    Args:
        name: the kind of source, a key of `SOURCES`.
        source: the folder or file of the source.
        output: the folder of prepared sets.
        classes: the class CSV of a source without a class list.
        sampling_rate: of the prepared clips, in Hz.
        processes: the number of decoding processes.
        max_damaged: the number of unreadable sound files to skip; one more is an error.
        scale_loud: whether to divide clips that go beyond 1 by their peak, instead of clipping.
        columns: column names of a CSV file, see `list_csv`.
        label_separator: of a CSV file, see `list_csv`.
        beam_runner: the Apache Beam runner that writes the files, such as `DirectRunner`.
        beam_options: Beam's pipeline options, as on its command line.

    Raises:
        InputError: the source or the output cannot be used, or too many files are damaged.
    """
    check_sampling_rate(sampling_rate)
    for path in (source, output):
        if "://" in str(path):
            raise InputError(
                f"{path}: is remote; mount it at the same path on every machine and give that path"
            )
    folder = Path(output).absolute() / name / VERSION
    if folder.exists():
        raise InputError(f"{folder}: exists; remove it or choose another --output")
    builder = AudioBuilder(
        name,
        source=source,
        classes=classes,
        sampling_rate=sampling_rate,
        max_damaged=max_damaged,
        scale_loud=scale_loud,
        columns=columns,
        label_separator=label_separator,
        write_shards=write_one_by_one if beam_runner else _InProcesses(processes),
        data_dir=folder.parents[1],
    )
    config = tfds.download.DownloadConfig()
    if beam_runner:
        config.beam_runner, config.beam_options = _beam(beam_runner, beam_options)
    work = Path(builder.work)
    try:
        work.mkdir(parents=True, exist_ok=True)
        with hold_folder(work, "another ast-jax prepare"):
            for leftover in folder.parent.glob(f"incomplete.*_{VERSION}"):  # of a killed run
                shutil.rmtree(leftover)
            builder.download_and_prepare(
                download_config=config, download_dir=builder.work / "no downloads"
            )
            shutil.rmtree(work)
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); free some "
            f"space, and repeat the command to resume"
        ) from None
    for leftover in folder.glob("*.shard_infos.json"):  # TFDS writes them with Beam
        leftover.unlink()
    splits = {split: info.num_examples for split, info in builder.info.splits.items()}
    manifest = builder.manifest
    notes = [*manifest.notes, *builder.notes]
    return Prepared(folder, splits, manifest.missing, builder.damaged, builder.digest, notes)


class _InProcesses:
    """Writes shards in several processes and shows a progress bar."""

    def __init__(self, processes: int):
        self.processes = processes

    def __call__(self, shards: list[Shard], labels: list[str]) -> Iterator[Report]:
        total = sum(len(shard.examples) for shard in shards)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as progress:
            task = progress.add_task("clips", total=total)
            if self.processes == 1:
                for shard in shards:
                    yield write_shard(shard, labels, lambda: progress.advance(task))
                return
            count = multiprocessing.get_context("spawn").Value("q", 0)
            died = (
                "a process that decoded clips died, perhaps out of memory; repeat the command to "
                "resume, with fewer --processes"
            )
            try:
                with start_pool(self.processes, _write, (count, labels), died) as submit:
                    pending = {submit(shard) for shard in shards}
                    while pending:
                        done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                        progress.update(task, completed=count.value)
                        for future in done:
                            yield future.result()
            finally:  # incomplete files of processes that were killed
                for folder in {shard.folder for shard in shards}:
                    for leftover in Path(folder).glob(f"*.{os.getpid()}-*.part"):
                        leftover.unlink(missing_ok=True)


def _write(shared: tuple[Any, list[str]], shard: Shard) -> Report:
    count, labels = shared  # the number of clips that all processes have written

    def add_one() -> None:
        with count.get_lock():
            count.value += 1

    return write_shard(shard, labels, add_one)


def _beam(runner: str, options: Iterable[str]) -> tuple[object, object]:
    """Returns Beam's runner and pipeline options."""
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.runner import create_runner
    except ImportError:
        raise InputError(
            "--beam-runner needs Apache Beam; install it with pip install apache-beam"
        ) from None
    try:
        return create_runner(runner), PipelineOptions(list(options))
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"Beam has no runner '{runner}' ({error}); try DirectRunner") from None
