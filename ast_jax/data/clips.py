"""Labeled recordings in memory, or read by index."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Float32, Int
from rich.progress import track
from scipy.sparse import csr_array

from ast_jax.audio.decode import LOUD, Recording, read_recording
from ast_jax.audio.kaldi import frame_sizes
from ast_jax.audio.pcm import clip_waveform
from ast_jax.data.sources.manifest import Example
from ast_jax.data.strong_labels import StrongLabels
from ast_jax.errors import InputError, quoted

T = TypeVar("T")

MAX_LISTED = 10  # recordings that cannot be used, in a message


class Clips(NamedTuple):
    """Recordings with their classes.

    Attributes:
        waveforms: (samples,) each, float32 in [-1, 1] or int16.
        targets: float32 (clips, classes), 1 for each class of a clip; sparse in large sets.
        names: the file name or id of each clip, for messages.
        samples: the length of each clip if the waveforms are not in memory, else None.
        strong: the events in the clips, which are then inputs of a frame-level model, else None.
    """

    waveforms: Sequence[np.ndarray]
    targets: np.ndarray | csr_array
    names: Sequence[str] | np.ndarray
    samples: np.ndarray | None = None
    strong: StrongLabels | None = None

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The shape of a clip's target: (classes,), or (columns, classes) with strong labels."""
        return self.targets.shape[1:] if self.strong is None else self.strong.shape

    def target(self, index: int, samples: int | None = None) -> Float32[np.ndarray, "*target"]:
        """Returns the target of one clip; of events, of those within so many samples if given."""
        if self.strong is not None:
            return self.strong.target(index, samples)
        if isinstance(self.targets, np.ndarray):
            return self.targets[index]
        start, end = self.targets.indptr[index : index + 2]
        target = np.zeros(self.targets.shape[1], np.float32)
        target[self.targets.indices[start:end]] = 1
        return target

    def scored(self, outputs: np.ndarray) -> Float[np.ndarray, "rows classes"]:
        """Returns the rows of a model's outputs that metrics count: clips, or columns of sound."""
        return outputs if self.strong is None else self.strong.scored(outputs)

    def all_targets(self) -> Float32[np.ndarray, "rows classes"]:
        """Returns the targets of all clips, or of their columns in the order of `scored`."""
        if self.strong is not None:
            return self.strong.scored(map(self.target, range(len(self.names))))
        return self.targets if isinstance(self.targets, np.ndarray) else self.targets.toarray()

    def class_counts(self) -> Int[np.ndarray, " classes"]:
        """Returns the number of clips of each class, those with a share of it included."""
        return np.asarray((self.targets > 0).sum(axis=0)).ravel()

    def lengths(self) -> list[int]:
        """Returns the length of every clip, in samples."""
        if self.samples is not None:
            return self.samples.tolist()
        return [len(waveform) for waveform in self.waveforms]


class DataSet(NamedTuple):
    """Training, evaluation and test clips of the same classes.

    Attributes:
        labels: the names of the classes.
        train: clips to train on.
        evaluation: held-out clips.
        statistics: mean and standard deviation of the training clips' log-mels by number of mel
            bins, if measured before.
        test: clips to test the final parameters on; None for no test.
        digest: the source digest of a prepared set; '' for other data.
        notes: sentences about the source to read before training, such as files passed over.
    """

    labels: list[str]
    train: Clips
    evaluation: Clips
    statistics: Mapping[int, tuple[float, float]] = {}
    test: Clips | None = None
    digest: str = ""
    notes: Sequence[str] = ()


def check_length(waveform: np.ndarray, sampling_rate: int, name: str) -> None:
    """Raises `InputError` if a waveform is shorter than one frame."""
    frame, _ = frame_sizes(sampling_rate)
    if len(waveform) < frame:
        raise InputError(
            f"{name}: lasts {1e3 * len(waveform) / sampling_rate:.4g} ms, less than one frame of "
            f"25 ms; leave it out or pad it with silence"
        )


def clipping_notes(clipped: Sequence[tuple[str, float]], total: int) -> list[str]:
    """Returns a sentence about clips that were clipped, if there are any.

    Args:
        clipped: the name and the peak of each.
        total: the number of all clips.
    """
    if not clipped:
        return []
    name, peak = max(clipped, key=lambda clip: clip[1])
    advice = ""
    if peak > LOUD:
        advice = "; scale such clips, as scale_loud does, or they are distorted"
    return [
        f"{len(clipped)} of {total} clips go beyond [-1, 1] and are clipped there, the loudest "
        f"reaches {peak:.4g}, {quoted(name)}{advice}"
    ]


def show_progress(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """Returns the items, which show a bar on a terminal as they are iterated."""
    return track(items, what, total, transient=True, disable=not sys.stdout.isatty())


def read_clips(
    examples: list[Example],
    num_labels: int,
    sampling_rate: int,
    what: str,
    *,
    scale_loud: bool = False,
) -> tuple[Clips, list[str]]:
    """Decodes recordings of one class each into memory.

    Args:
        examples: the recordings.
        num_labels: the number of classes.
        sampling_rate: as for `read_waveforms`, as are the rest and the errors.
        what: a word for the recordings.
        scale_loud: whether to scale loud clips.

    Returns:
        The clips, and sentences about what is unusual in them.
    """
    paths = [example.path for example in examples]
    waveforms, notes = read_waveforms(paths, sampling_rate, what, scale_loud=scale_loud)
    targets = np.eye(num_labels, dtype=np.float32)[[example.labels[0] for example in examples]]
    return Clips(waveforms, targets, paths), notes


def read_waveforms(
    paths: Sequence[str], sampling_rate: int, what: str, *, scale_loud: bool = False
) -> tuple[list[np.ndarray], list[str]]:
    """Decodes recordings into memory, on all cores, with a progress bar.

    Takes 4 bytes per sample, 640 kB for 10 s at 16 kHz. Samples beyond [-1, 1] are clipped, as in
    prepared sets.

    Args:
        paths: of the recordings.
        sampling_rate: the sampling rate to resample to, in Hz.
        what: a word for the recordings, for the progress bar.
        scale_loud: whether to divide clips that go beyond 1 by their peak instead.

    Returns:
        The waveforms, and sentences about what is unusual in them.

    Raises:
        InputError: files cannot be used, or are shorter than one frame; the message names the first
            10, each with its reason.
    """

    def read(path: str) -> Recording | InputError:
        try:
            recording = read_recording(path, sampling_rate, scale_loud=scale_loud)
            check_length(recording.waveform, sampling_rate, path)
        except InputError as error:
            return error
        if recording.peak > 1:
            clip_waveform(recording.waveform)
        return recording

    with ThreadPoolExecutor() as pool:
        decoded = pool.map(read, paths)
        results = list(show_progress(decoded, f"reading {what}", len(paths)))
    errors = [str(result) for result in results if isinstance(result, InputError)]
    if len(errors) == 1:
        raise InputError(errors[0])
    if errors:
        more = [f"and {len(errors) - MAX_LISTED} more"] if len(errors) > MAX_LISTED else []
        listed = "; ".join([*errors[:MAX_LISTED], *more])
        raise InputError(f"{len(errors)} of {len(paths)} {what} cannot be used: {listed}")
    recordings = [result for result in results if isinstance(result, Recording)]
    notes = [recording.note for recording in recordings if recording.note]
    if not scale_loud:
        peaks = [(path, r.peak) for path, r in zip(paths, recordings, strict=True) if r.peak > 1]
        notes += clipping_notes(peaks, len(paths))
    return [recording.waveform for recording in recordings], notes
