"""Classifies sound as it arrives."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from ast_jax.audio.resampler import Resampler
from ast_jax.audio.waveform import (
    MAX_CHANNELS,
    check_peak,
    check_sampling_rate,
    mix_to_mono,
    to_array,
    to_waveform,
)
from ast_jax.errors import InputError
from ast_jax.inference.classifier import AudioClassifier
from ast_jax.inference.windows import Window, WindowInput, WindowSlicer, score_windows
from ast_jax.thresholds import Thresholds, calibration_of


class ChunkFormat(NamedTuple):
    """The sampling rate and the number of channels, which are the same for all chunks."""

    rate: int
    channels: int

    def __str__(self) -> str:
        return f"{self.rate} Hz and {self.channels} channel{'s' * (self.channels > 1)}"


class StreamingClassifier:
    """Scores the windows of a recording that arrives in chunks.

    The windows are those of `AudioClassifier.windows` for the chunks joined, however they are cut:
    the model's inputs are the same bit by bit, and with a batch size of 1 the scores, too. Memory
    does not grow with the length of the recording.

    Attributes:
        window: the length of a window, in seconds.
        hop: from the start of one window to the next, in seconds.
    """

    def __init__(
        self,
        classifier: AudioClassifier,
        window: float | None = None,
        hop: float | None = None,
        *,
        thresholds: Thresholds | None = None,
    ):
        """Compiles the model, so that no chunk waits for that.

        Args:
            classifier: the classifier.
            window: as for `AudioClassifier.windows`.
            hop: as for `AudioClassifier.windows`.
            thresholds: as for `AudioClassifier.windows`.

        Raises:
            InputError: an argument cannot be used.
        """
        if classifier.config.frame_level:
            raise InputError(
                "a frame-level model scores whole inputs: give a clip-level model to stream, or "
                "take the windows of a recording"
            )
        extractor = classifier.feature_extractor
        calibration = calibration_of(thresholds, classifier.labels)
        self._scores = partial(classifier.probabilities, calibration=calibration)
        self._extractor = extractor
        self._slicer = WindowSlicer(extractor, window, hop)
        self.window, self.hop = self._slicer.window, self._slicer.hop
        self._format: ChunkFormat | None = None  # of the chunks so far
        self._resampler: Resampler | None = None
        silence = np.zeros((1, extractor.max_length, extractor.num_mel_bins), np.float32)
        self._scores(silence).block_until_ready()

    def push(self, chunk: Any, sampling_rate: int) -> list[Window]:
        """Returns the windows that a chunk completes, with their scores.

        A window is complete with its last sample, or up to 0.12 s later if the stream has another
        rate than the model, see `Resampler`. A chunk that is refused leaves the stream as it was.

        Args:
            chunk: an array of NumPy or JAX or a PyTorch tensor, floats in [-1, 1] or int16, of any
                length: (samples,), or (samples, channels), which are averaged.
            sampling_rate: of the chunk, in Hz.

        Raises:
            InputError: the chunk cannot be used, or has another sampling rate or another number of
                channels than the first.
        """
        array, rate = to_array(chunk), check_sampling_rate(sampling_rate)
        channels = 1 if array.ndim == 1 else array.shape[-1] if array.ndim == 2 else 0
        if not 1 <= channels <= MAX_CHANNELS:
            raise InputError(
                f"the chunk has shape {array.shape}: give (samples,), or (samples, channels) with "
                f"up to {MAX_CHANNELS} channels"
            )
        format = ChunkFormat(rate, channels)
        if self._format not in (None, format):
            raise InputError(
                f"the stream changes from {self._format} to {format}: finish it before, or convert "
                f"the chunk"
            )
        if not len(array):
            return []
        waveform = mix_to_mono(to_waveform(array.reshape(-1)).reshape(-1, channels))
        check_peak(waveform, "the chunk")
        if self._resampler is None:
            self._format = format
            self._resampler = Resampler(rate, self._extractor.sampling_rate)
        return self._score(self._slice(self._resampler.push(waveform)))

    def finish(self) -> list[Window]:
        """Returns the windows that are left at the stream's end; the next chunk starts a new one.

        Raises:
            InputError: the stream has no samples, or less than a frame.
        """
        try:
            return self._score(self._slice_rest())
        finally:
            self._slicer = WindowSlicer(self._extractor, self.window, self.hop)
            self._format = self._resampler = None

    def _slice(self, waveform: Float32[np.ndarray, " samples"]) -> Iterator[WindowInput]:
        step = self._slicer.hop_samples  # so that few windows are in memory at once
        for start in range(0, len(waveform), step):
            yield from self._slicer.push(waveform[start : start + step])

    def _slice_rest(self) -> Iterator[WindowInput]:
        if self._resampler:
            yield from self._slice(self._resampler.finish())
        yield from self._slicer.finish()

    def _score(self, inputs: Iterable[WindowInput]) -> list[Window]:
        return list(score_windows(inputs, self._scores, batch_size=1))
