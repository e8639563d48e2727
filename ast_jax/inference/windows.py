"""Windows of long recordings: their model inputs, scores and aggregates."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32

from ast_jax.audio.feature_extractor import ASTFeatureExtractor, pad_or_cut
from ast_jax.audio.kaldi import frame_sizes
from ast_jax.audio.log_mel_stream import LogMelStream
from ast_jax.audio.sounds import naming_sound, read_sound_blocks
from ast_jax.errors import InputError
from ast_jax.inference.batching import map_batches, map_values

AGGREGATES = ("mean", "max", "noisy-or")


class WindowInput(NamedTuple):
    """A window of a recording, and the model's input for it.

    Attributes:
        start: in seconds from the start of the recording.
        end: in seconds.
        input_values: float32 (max_length, mel_bins).
    """

    start: float
    end: float
    input_values: Float32[np.ndarray, "max_length mel_bins"]


class Window(NamedTuple):
    """A window of a recording, and its scores.

    Attributes:
        start: in seconds from the start of the recording.
        end: in seconds.
        scores: float32 (classes,).
    """

    start: float
    end: float
    scores: Float32[np.ndarray, " classes"]


class WindowSlicer:
    """Cuts a waveform that arrives in chunks into windows of model inputs.

    A window of so many seconds has the model input of a clip that long, so windows that overlap
    share their frames. Windows start at whole frames (10 ms at most rates). The last window is
    shorter and padded, as a short clip is, if the windows before it leave frames out. No more
    than a window is kept.

    Attributes:
        rate: the sampling rate of the waveform, in Hz.
        window: the length of a window in seconds, in whole samples.
        hop: from the start of one window to the next in seconds, in whole frames.
        hop_samples: the same in samples.
    """

    def __init__(
        self,
        extractor: ASTFeatureExtractor,
        window: float | None = None,
        hop: float | None = None,
    ):
        """Sets the lengths.

        Args:
            extractor: of the model.
            window: in seconds; None for the model's input (10.24 s of 1024 frames).
            hop: in seconds, rounded to whole frames; None for the window's length.

        Raises:
            InputError: the window is shorter than a frame or longer than the model's input, or
                the hop is shorter than the time between frames or longer than the window.
        """
        rate = extractor.sampling_rate
        size, shift = frame_sizes(rate)
        self.rate = rate
        self._extractor, self._size, self._shift = extractor, size, shift
        if window is None:
            window = extractor.max_length * shift / rate
        num_samples = _seconds("window", window) * rate  # may be infinite
        if num_samples > extractor.max_samples + 0.5:
            raise InputError(
                f"window is {window:g} s and the model's input has "
                f"{extractor.max_samples / rate:g} s: give a shorter window"
            )
        self._num_samples = round(num_samples)
        if self._num_samples < size:
            raise InputError(
                f"window is {window:g} s and a frame takes {size / rate:g} s: give a longer window"
            )
        self.window = self._num_samples / rate
        hop = self.window if hop is None else _seconds("hop", hop)
        if hop > self.window + 0.5 / rate:
            raise InputError(
                f"hop is {hop:g} s and window {self.window:g} s, which leaves out what is between "
                f"windows: give a hop of at most the window"
            )
        self._hop = min(round(hop * rate / shift), self._num_samples // shift)  # in frames
        if self._hop < 1:
            raise InputError(
                f"hop is {hop:g} s and frames are {shift / rate:g} s apart: give at least that"
            )
        self.hop_samples = self._hop * shift
        self.hop = self.hop_samples / rate
        num_frames = 1 + (self._num_samples - size) // shift
        self._stream = LogMelStream(rate, extractor.num_mel_bins)
        self._frames = np.empty((num_frames, extractor.num_mel_bins), np.float32)
        self._filled = 0  # frames of the next window so far; negative: frames before it
        self._unheard = 0  # frames of these that no window has had
        self._start = 0  # of the next window, in frames
        self._samples = 0  # so far

    @property
    def seconds(self) -> float:
        """The length of what was pushed so far."""
        return self._samples / self.rate

    def push(self, waveform: Float32[np.ndarray, " samples"]) -> list[WindowInput]:
        """Returns the windows that a chunk of any length completes.

        Args:
            waveform: float32 (samples,) in [-1, 1], at the extractor's sampling rate.

        Raises:
            InputError: the chunk has samples that are not finite or beyond 1e15.
        """
        self._samples += len(waveform)
        log_mel = self._stream.push(waveform)
        windows: list[WindowInput] = []
        while True:
            if self._filled < 0:
                skipped = min(-self._filled, len(log_mel))
                self._filled += skipped
                log_mel = log_mel[skipped:]
            free = self._frames[max(0, self._filled) :]
            taken = min(len(free), len(log_mel))
            free[:taken] = log_mel[:taken]
            log_mel = log_mel[taken:]
            self._filled += taken
            self._unheard += taken
            start = self._start * self._shift
            end = start + self._num_samples  # may be after the last frame
            if taken < len(free) or self._samples < end:
                return windows
            windows.append(self._input(start, end))
            self._frames[: -self._hop] = self._frames[self._hop :]
            self._filled -= self._hop
            self._start += self._hop
            self._unheard = 0

    def finish(self) -> list[WindowInput]:
        """Returns the last window, of the frames that no other has; none if there are no such.

        Raises:
            InputError: all that was pushed is shorter than a frame.
        """
        if self._samples < self._size:
            raise InputError(
                f"the recording has {self._samples} samples and a frame takes {self._size}: give a "
                f"longer one, or pad it with zeros"
            )
        if not self._unheard:
            return []
        self._unheard = 0
        return [self._input(self._start * self._shift, self._samples)]

    def _input(self, start: int, end: int) -> WindowInput:
        """Returns the window of the frames so far; its start and end are in samples."""
        inputs = pad_or_cut(self._frames[: self._filled], self._extractor.max_length)
        self._extractor.normalize(inputs, out=inputs)
        return WindowInput(start / self.rate, end / self.rate, inputs)


def _seconds(name: str, value: float) -> float:
    """Returns a positive and finite number of seconds as a float."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and 0 < value < np.inf):
        raise InputError(f"{name} is {value!r}: give a positive number of seconds")
    return float(value)


def slice_sound(
    sound: Any, sampling_rate: int | None, slicer: WindowSlicer
) -> Iterator[WindowInput]:
    """Yields the windows of a sound as it is read; see `AudioClassifier.windows`."""
    with naming_sound(sound):
        yield from slice_recording(read_sound_blocks(sound, sampling_rate, slicer.rate), slicer)


def slice_recording(
    blocks: Iterable[Float32[np.ndarray, " samples"]], slicer: WindowSlicer
) -> Iterator[WindowInput]:
    """Yields the windows of a recording as its blocks are read.

    If a block cannot be read, the windows of all that precedes it are yielded before the error.

    Args:
        blocks: the waveform, at the extractor's sampling rate.
        slicer: a new one.

    Raises:
        InputError: a block cannot be read, or the recording is shorter than a frame.
    """
    step = slicer.hop_samples  # so that few windows are in memory at once
    try:
        for block in blocks:
            for start in range(0, len(block), step):
                yield from slicer.push(block[start : start + step])
    except InputError:
        with suppress(InputError):  # nothing precedes it
            yield from slicer.finish()
        raise
    yield from slicer.finish()


def score_windows(
    inputs: Iterable[WindowInput], score: Callable[[np.ndarray], jax.Array], batch_size: int
) -> Iterator[Window]:
    """Yields the scores of windows, computed in batches.

    The next batch is read while the device computes. The last batch is padded, so that the model
    is compiled for one shape. If reading raises InputError, the windows before it are yielded
    before the error is raised.

    Args:
        inputs: the windows; of several recordings, too.
        score: computes (batch, max_length, mel_bins) → (batch, classes), on the device.
        batch_size: windows that the device computes at once.

    Raises:
        InputError: the model's output is not finite, or as `inputs` raise.
    """
    failures: list[InputError] = []

    def timed_values() -> Iterator[tuple[tuple[float, float], np.ndarray]]:
        try:
            for start, end, values in inputs:
                yield (start, end), values
        except InputError as error:
            failures.append(error)

    compute = partial(map_batches, score, batch_size=batch_size)
    for (start, end), scores in map_values(compute, timed_values()):
        yield Window(start, end, scores)
    if failures:
        raise failures[0]


def aggregate(
    scores: Iterable[Float32[np.ndarray, " classes"]], how: str
) -> Float32[np.ndarray, " classes"]:
    """Returns the scores of a whole recording, given those of its windows.

    Args:
        scores: (windows, classes), or an iterator of rows, which are not kept.
        how: "mean"; "max"; or "noisy-or", 1 - Π(1 - p): the probability that a class is heard in
            some window, if windows were independent.

    Raises:
        InputError: there are no windows, or no such aggregate.
    """
    if how not in AGGREGATES:
        raise InputError(f"the aggregate is {how!r}: give one of {', '.join(AGGREGATES)}")
    count, result = 0, None
    for row in scores:
        row = np.array(row, np.float64)  # a copy
        if how == "noisy-or":
            row = 1 - row
        count += 1
        if result is None:
            result = row
        elif how == "mean":
            result += row
        elif how == "max":
            result = np.maximum(result, row)
        else:
            result *= row
    if result is None:
        raise InputError("there are no windows to aggregate: give at least one")
    if how == "mean":
        result /= count
    return (1 - result if how == "noisy-or" else result).astype(np.float32)
