"""Log-mels of a waveform that arrives in chunks."""

import numpy as np
from jaxtyping import Float32

from ast_jax.audio.fbank import fbank
from ast_jax.audio.kaldi import frame_sizes


class LogMelStream:
    """Computes each frame once, as soon as its samples are there.

    The frames joined are bit by bit the `fbank` of the chunks joined, however they are cut.
    """

    def __init__(self, sampling_rate: int, num_mel_bins: int):
        self._sampling_rate, self._num_mel_bins = sampling_rate, num_mel_bins
        self._size, self._shift = frame_sizes(sampling_rate)
        self._rest = np.empty(0, np.float32)  # from the start of the next frame on

    def push(
        self, waveform: Float32[np.ndarray, " samples"]
    ) -> Float32[np.ndarray, "frames mel_bins"]:
        """Returns the frames that a chunk completes, not normalized.

        Args:
            waveform: the chunk, (samples,) in [-1, 1], of any length.

        Raises:
            InputError: it has samples that are not finite or beyond 1e15.
        """
        samples = np.concatenate([self._rest, waveform], dtype=np.float32, casting="no")
        if len(samples) < self._size:
            self._rest = samples
            return np.empty((0, self._num_mel_bins), np.float32)
        log_mel = fbank(samples, self._sampling_rate, num_mel_bins=self._num_mel_bins)
        self._rest = samples[len(log_mel) * self._shift :].copy()
        return log_mel
