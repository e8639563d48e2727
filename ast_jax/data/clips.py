"""Labelled recordings: a list of files, and the same in memory as waveforms."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import Progress

from ast_jax.audio.decode import load_audio
from ast_jax.audio.fbank import frame_sizes
from ast_jax.errors import InputError


class Clips(NamedTuple):
    """Recordings with their classes.

    Attributes:
        waveforms: float32 (samples,) each.
        targets: float32 (clips, classes), 1 for a class that is heard.
        names: a file name or another word for each clip, to speak of it.
    """

    waveforms: list[np.ndarray]
    targets: np.ndarray
    names: list[str]


class DataSet(NamedTuple):
    """Clips to train on and clips held out, of the same classes."""

    labels: list[str]
    train: Clips
    evaluation: Clips


class Recording(NamedTuple):
    """A sound file and the index of its class."""

    path: Path
    label: int


def read_clips(
    recordings: list[Recording], num_labels: int, sampling_rate: int, what: str
) -> Clips:
    """Decodes and resamples the recordings, on all cores, showing progress.

    Memory: 4 bytes a sample, 640 kB for ten seconds at 16 kHz.

    Raises:
        InputError: a file cannot be used, or is shorter than one frame; the message names it.
    """
    frame, _ = frame_sizes(sampling_rate, frame_length=25.0, frame_shift=10.0)

    def read(path: Path) -> np.ndarray:
        waveform = load_audio(path, sampling_rate)
        if len(waveform) < frame:
            raise InputError(
                f"{path}: lasts {1e3 * len(waveform) / sampling_rate:.0f} ms, less than one frame "
                f"of 25 ms; leave it out or pad it with silence"
            )
        return waveform

    targets = np.eye(num_labels, dtype=np.float32)[[recording.label for recording in recordings]]
    paths = [recording.path for recording in recordings]
    with ThreadPoolExecutor() as pool, Progress(transient=True) as progress:
        decoded = pool.map(read, paths)
        waveforms = list(_shown(decoded, progress, f"reading {what}", len(paths)))
    return Clips(waveforms, targets, [str(path) for path in paths])


def _shown(
    items: Iterable[np.ndarray], progress: Progress, what: str, total: int
) -> Iterable[np.ndarray]:
    task = progress.add_task(what, total=total)
    for item in items:
        progress.advance(task)
        yield item
