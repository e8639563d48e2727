"""Resamples a waveform that arrives in chunks."""

import numpy as np
import soxr
from jaxtyping import Float32


class Resampler:
    """Resamples chunks to what `resample` makes of the whole, bit by bit, with soxr's "HQ" recipe.

    The filter waits for 0.04 to 0.12 s of sound from 8 kHz on, and for 1 s at 1 kHz.
    """

    def __init__(self, rate: int, new_rate: int):
        self._rate, self._new_rate = rate, new_rate
        self._stream = None
        if rate != new_rate:
            self._stream = soxr.ResampleStream(rate, new_rate, 1, "float32", "HQ")
        self._count = 0  # samples given
        self._length = 0  # samples returned

    def push(self, chunk: Float32[np.ndarray, " samples"]) -> Float32[np.ndarray, " resampled"]:
        """Returns the samples that a chunk of any length completes."""
        if self._stream is None:
            return chunk
        resampled = self._stream.resample_chunk(chunk)
        self._count += len(chunk)
        self._length += len(resampled)
        return resampled

    def finish(self) -> Float32[np.ndarray, " resampled"]:
        """Returns the rest: `n` samples become ⌈n · new_rate / rate⌉ in all."""
        if self._stream is None or not self._count:
            return np.empty(0, np.float32)
        missing = -(-self._count * self._new_rate // self._rate) - self._length
        end = self._stream.resample_chunk(np.empty(0, np.float32), last=True)[:missing]
        return np.pad(end, (0, missing - len(end)))
