"""Measures mean and standard deviation of log-mels, durations and class counts of a data set."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ast_jax.audio.fbank import fbank
from ast_jax.audio.pcm import to_float
from ast_jax.data.clips import Clips, show_progress
from ast_jax.data.process_pool import start_pool
from ast_jax.errors import InputError
from ast_jax.io import read_json, write_json

STATISTICS_FILE = "statistics.json"
BATCH = 1000  # clips per batch in the original's script


class Statistics(NamedTuple):
    """Statistics of a set of clips.

    Attributes:
        mean: the mean of the log-mels.
        std: the standard deviation of the log-mels.
        clips: the number of clips.
        hours: the total duration, in hours.
        shortest: the shortest duration, in seconds.
        longest: the longest duration, in seconds.
        classes: the number of clips of each class; a clip counts for all its classes.
    """

    mean: float
    std: float
    clips: int
    hours: float
    shortest: float
    longest: float
    classes: dict[str, int]


class Sums(NamedTuple):
    """The number, sum and sum of squares of log-mel values."""

    number: int
    total: float
    squares: float

    def mean_and_std(self) -> tuple[float, float]:
        """Returns mean and standard deviation of the values."""
        mean = self.total / self.number
        return mean, math.sqrt(max(0.0, self.squares / self.number - mean**2))


def measure(
    clips: Clips,
    labels: Sequence[str],
    sampling_rate: int,
    num_mel_bins: int,
    padded_to: int = 0,
    processes: int = 1,
) -> Statistics:
    """Measures clips in one pass, without augmentation.

    Args:
        clips: the clips to measure.
        labels: the names of the classes.
        sampling_rate: of the clips, in Hz.
        num_mel_bins: of the log-mels.
        padded_to: 0: every log-mel value counts once. Otherwise a number of frames, to measure
            as the original's src/get_norm_stats.py: clips are zero-padded or cut to it, and means
            and standard deviations of batches of 1000 clips are averaged. (That script leaves
            mixup and SpecAugment on.)
        processes: the number of processes that compute log-mels.
    """
    size = BATCH if padded_to else 50
    count = len(clips.waveforms)
    parts = [range(start, min(start + size, count)) for start in range(0, count, size)]
    job = _Job(clips.waveforms, sampling_rate, num_mel_bins, padded_to)
    results = _run(job, parts, processes)
    sums = list(show_progress(results, "measuring log-mels", len(parts)))
    if padded_to:
        mean, std = np.mean([part.mean_and_std() for part in sums], axis=0)
    else:
        mean, std = Sums(*np.sum(np.array(sums), axis=0)).mean_and_std()
    seconds = np.array(clips.lengths()) / sampling_rate
    per_class = clips.class_counts()
    return Statistics(
        float(mean),
        float(std),
        count,
        float(seconds.sum() / 3600),
        float(seconds.min()),
        float(seconds.max()),
        dict(zip(labels, per_class.tolist(), strict=True)),
    )


class _Job(NamedTuple):
    waveforms: Sequence[np.ndarray]
    sampling_rate: int
    num_mel_bins: int
    padded_to: int

    def sums(self, indices: range) -> Sums:
        count, total, squares = 0, 0.0, 0.0
        for index in indices:
            log_mel = fbank(
                to_float(self.waveforms[index]), self.sampling_rate, num_mel_bins=self.num_mel_bins
            )
            if self.padded_to:
                log_mel = log_mel[: self.padded_to]
            count += self.padded_to * self.num_mel_bins if self.padded_to else log_mel.size
            total += float(log_mel.sum(dtype=np.float64))
            squares += float(np.square(log_mel, dtype=np.float64).sum())
        return Sums(count, total, squares)


def _run(job: _Job, parts: list[range], processes: int) -> Iterator[Sums]:
    if processes == 1:
        yield from map(job.sums, parts)
        return
    died = "a process that measured clips died, perhaps out of memory; try fewer --processes"
    with start_pool(processes, _Job.sums, job, died) as submit:
        for future in [submit(part) for part in parts]:
            yield future.result()


def write_statistics(
    folder: Path, splits: str, num_mel_bins: int, padded_to: int, statistics: Statistics
) -> Path:
    """Writes statistics to a prepared set; training uses those measured without padding."""
    file = folder / STATISTICS_FILE
    content = read_json(file) if file.exists() else {}
    kind = f"padded to {padded_to}" if padded_to else "unpadded"
    content.setdefault(splits, {}).setdefault(kind, {})[str(num_mel_bins)] = statistics._asdict()
    write_json(file, content)
    return file


def read_statistics(folder: Path, splits: str) -> dict[int, tuple[float, float]]:
    """Returns mean and standard deviation of the splits' unpadded log-mels by number of mel bins.

    Empty if they have not been measured.

    Raises:
        InputError: the file is damaged.
    """
    file = folder / STATISTICS_FILE
    if not file.exists():
        return {}
    content: Any = read_json(file)
    try:
        found = {
            int(bins): (float(values["mean"]), float(values["std"]))
            for bins, values in content.get(splits, {}).get("unpadded", {}).items()
        }
        if not all(math.isfinite(mean) and 0 < std < math.inf for mean, std in found.values()):
            raise ValueError("a value is not a positive number")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: damaged ({error}); remove it and run ast-jax stats") from None
    return found
