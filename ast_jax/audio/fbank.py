"""Kaldi's log-mel filterbank in NumPy, in float32 or float64.

Takes the steps of `ast_jax.audio.fbank_reference` on blocks of frames that fit into the cache.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy  # imports scipy.fft and scipy.sparse, which are slow to import, on first use
from jaxtyping import Float

from ast_jax.audio.kaldi import LOG_FLOOR, frame_sizes, mel_bank, next_power_of_two, window
from ast_jax.audio.waveform import check_mono, check_peak, to_array
from ast_jax.errors import InputError

# Frames per block: their spectra fit into a core's L2 cache. A multiple of every SIMD width, but
# no power of two, at which the rows of a block would compete for the same cache lines.
BLOCK = 112


def fbank(
    waveform: npt.ArrayLike,
    sampling_rate: int = 16000,
    *,
    num_mel_bins: int = 128,
    frame_length: float = 25.0,
    frame_shift: float = 10.0,
    window_type: str = "hanning",
    low_freq: float = 20.0,
    high_freq: float = 0.0,
    preemphasis: float = 0.97,
    dither: float = 0.0,
    rng: np.random.Generator | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> Float[np.ndarray, "frames mel_bins"]:
    """Computes the log-mel energies of a waveform, as Kaldi and the original AST do.

    Each whole frame (Kaldi's `snip_edges`) has its mean removed, is pre-emphasized, windowed and
    zero-padded to a power of two; the mel filters sum its power spectrum. The waveform is in
    [-1, 1], as in the original AST, where Kaldi takes 16-bit integers.

    Args:
        waveform: floats (samples,), in [-1, 1].
        sampling_rate: in Hz.
        num_mel_bins: the number of mel filters.
        frame_length: in ms; rounded down to whole samples, as is `frame_shift`.
        frame_shift: in ms, from the start of one frame to the next.
        window_type: "hanning", "hamming", "povey", "blackman" or "rectangular".
        low_freq: the lower end of the lowest filter, in Hz.
        high_freq: the upper end of the highest filter, in Hz; 0 or less is relative to the
            Nyquist frequency.
        preemphasis: p in y[n] = x[n] - p·x[n-1], from 0 to 1.
        dither: standard deviation of the Gaussian noise added to each sample of each frame.
        rng: the generator of that noise.
        dtype: precision of the computation and the result: float32, or float64 for parity work.

    Returns:
        `dtype` (frames, num_mel_bins), the natural log of the energies, floored at 2⁻²³;
        frames = 1 + (samples - samples a frame) // samples a shift. An empty filter is at the
        floor.

    Raises:
        InputError: the waveform is not of floats (samples,), not finite, beyond 1e15 or shorter
            than a frame, or an option is out of its range.
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise InputError(f"dtype is {dtype}: choose float32 or float64")
    if not 0 <= preemphasis <= 1:
        raise InputError(f"preemphasis is {preemphasis}: give a number from 0 to 1")
    if not 0 <= dither < np.inf:
        raise InputError(f"dither is {dither}: give 0 or a positive number")
    if dither and rng is None:
        raise InputError("dither needs a source of noise: pass rng=np.random.default_rng(seed)")
    size, shift = frame_sizes(sampling_rate, frame_length, frame_shift)
    fft_size = next_power_of_two(size)
    filters = _sparse_mel_bank(num_mel_bins, fft_size, sampling_rate, low_freq, high_freq, dtype)
    taper = window(window_type, size).astype(dtype)[:, None]

    samples = _check_waveform(waveform, size, dtype)
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::shift]
    if rng is not None and dither:
        frames = frames + (dither * rng.standard_normal(frames.shape)).astype(dtype)
    means = frames.mean(axis=1)
    energies = np.empty((len(frames), num_mel_bins), dtype)
    for start in range(0, len(frames), BLOCK):
        block = slice(start, start + BLOCK)
        # In a block a frame is a column: the FFT is faster down columns than along rows.
        x = frames[block].T.copy()
        x -= means[block]
        # x[n] - p·x[n-1] as (x[n] - x[n-1]) + (1 - p)·x[n-1]: the difference rounds less.
        emphasized = np.empty_like(x)
        emphasized[0] = (1 - preemphasis) * x[0]
        np.subtract(x[1:], x[:-1], out=emphasized[1:])
        emphasized[1:] += (1 - preemphasis) * x[:-1]
        emphasized *= taper
        spectrum = scipy.fft.rfft(emphasized, fft_size, axis=0)[:-1]  # no filter reaches Nyquist
        power = np.abs(spectrum) ** 2
        energies[block] = (filters @ power).T
    np.maximum(energies, LOG_FLOOR, out=energies)
    return np.log(energies, out=energies)


@lru_cache
def _sparse_mel_bank(
    num_mel_bins: int,
    fft_size: int,
    sampling_rate: int,
    low_freq: float,
    high_freq: float,
    dtype: np.dtype,
) -> "scipy.sparse.csr_array":
    """Returns `mel_bank` as sparse rows, as at most two filters overlap at each frequency."""
    weights = mel_bank(num_mel_bins, fft_size, sampling_rate, low_freq, high_freq)
    return scipy.sparse.csr_array(weights.astype(dtype))


def _check_waveform(
    waveform: npt.ArrayLike, frame_size: int, dtype: np.dtype
) -> Float[np.ndarray, " samples"]:
    """Returns the waveform as contiguous `dtype`; raises InputError if it cannot be used."""
    samples = to_array(waveform)
    check_mono(samples)
    if not np.issubdtype(samples.dtype, np.floating):
        raise InputError(
            f"the waveform is {samples.dtype}: give floats in [-1, 1]; divide 16-bit integers by "
            "32768"
        )
    if len(samples) < frame_size:
        raise InputError(
            f"the waveform has {len(samples)} samples and a frame takes {frame_size}: give a "
            "longer one, or pad it with zeros"
        )
    check_peak(samples)
    return np.ascontiguousarray(samples, dtype)
