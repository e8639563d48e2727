"""Labelled recordings: a list of files, and the same in memory as waveforms."""

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from rich.progress import track
from scipy.sparse import csr_array

from ast_jax.audio.decode import load_audio
from ast_jax.audio.kaldi import frame_sizes
from ast_jax.data.sources.manifest import Example
from ast_jax.errors import InputError


class Clips(NamedTuple):
    """Recordings with their classes.

    Attributes:
        waveforms: (samples,) each, float32 in [-1, 1] or int16.
        targets: float32 (clips, classes), 1 for a class that is heard; sparse in large sets.
        names: a file name or another word for each clip, to speak of it.
        samples: the length of each, where the waveforms are not in memory.
    """

    waveforms: Sequence[np.ndarray]
    targets: np.ndarray | csr_array
    names: Sequence[str] | np.ndarray
    samples: np.ndarray | None = None

    def target(self, index: int) -> np.ndarray:
        """The target of one clip, float32 (classes,)."""
        if isinstance(self.targets, np.ndarray):
            return self.targets[index]
        start, end = self.targets.indptr[index : index + 2]
        target = np.zeros(self.targets.shape[1], np.float32)
        target[self.targets.indices[start:end]] = 1
        return target

    def all_targets(self) -> np.ndarray:
        """The targets of all clips, float32 (clips, classes)."""
        return self.targets if isinstance(self.targets, np.ndarray) else self.targets.toarray()

    def class_counts(self) -> np.ndarray:
        """How many clips each class has, (classes,)."""
        return np.asarray(self.targets.sum(axis=0)).ravel().astype(int)

    def lengths(self) -> list[int]:
        """Of all waveforms, in samples."""
        if self.samples is not None:
            return self.samples.tolist()
        return [len(waveform) for waveform in self.waveforms]


class DataSet(NamedTuple):
    """Clips to train on and clips held out, of the same classes.

    Attributes:
        labels: the names of the classes.
        train: clips to train on.
        evaluation: clips held out.
        statistics: mean and deviation of the training clips' log-mels by number of mel bins,
            where they were measured before.
        test: clips that the result is tested on at the end, if any.
        digest: of the source of a prepared set; '' for others.
    """

    labels: list[str]
    train: Clips
    evaluation: Clips
    statistics: Mapping[int, tuple[float, float]] = {}
    test: Clips | None = None
    digest: str = ""


def classes_without(data: DataSet) -> list[str]:
    """A sentence for each side that has no clips of some class, or one only."""
    told = []
    for side, clips in (("to train on", data.train), ("held out", data.evaluation)):
        counts = clips.class_counts()
        for number in (0, 1):
            few = [label for label, n in zip(data.labels, counts, strict=True) if n == number]
            if few:
                named = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
                told.append(f"{('no clip', 'one clip only')[number]} {side} of {named}")
    return told


def read_clips(entries: list[Example], num_labels: int, sampling_rate: int, what: str) -> Clips:
    """Decodes and resamples recordings of one class each, on all cores, showing progress.

    Memory: 4 bytes a sample, 640 kB for ten seconds at 16 kHz.

    Raises:
        InputError: a file cannot be used, or is shorter than one frame; the message names it.
    """
    frame, _ = frame_sizes(sampling_rate)

    def read(path: str) -> np.ndarray:
        waveform = load_audio(path, sampling_rate)
        if len(waveform) < frame:
            raise InputError(
                f"{path}: lasts {1e3 * len(waveform) / sampling_rate:.0f} ms, less than one frame "
                f"of 25 ms; leave it out or pad it with silence"
            )
        return waveform

    targets = np.eye(num_labels, dtype=np.float32)[[entry.labels[0] for entry in entries]]
    paths = [entry.path for entry in entries]
    with ThreadPoolExecutor() as pool:
        decoded = pool.map(read, paths)
        quiet = not sys.stdout.isatty()
        shown = track(decoded, f"reading {what}", len(paths), transient=True, disable=quiet)
        waveforms = list(shown)
    return Clips(waveforms, targets, paths)
