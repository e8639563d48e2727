"""Kaldi's log-mel filterbank in NumPy: the reference for every frontend of this project.

The steps are those of Kaldi's feature-window.cc, feature-fbank.cc and mel-computations.cc, with
the waveform in [-1, 1] as the original AST has it, where Kaldi's is of 16-bit integers.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy  # loads scipy.fft and scipy.sparse, which are slow to import, on their first use

from ast_jax.errors import InputError

LOG_FLOOR = 2.0**-23  # float32's epsilon, in either precision
# Frames worked on at a time: few enough that they stay in a core's cache, no power of two, which
# would make the rows of a block collide there, and whole vectors of any processor.
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
) -> np.ndarray:
    """Log-mel energies of a waveform, as Kaldi and the original AST compute them.

    Only whole frames count (Kaldi's `snip_edges`). Each has its mean removed, is pre-emphasised
    (its first sample taken to follow itself), windowed, zero-padded to a power of two, and
    turned into a power spectrum, of which the filters take weighted sums. A filter narrower
    than the spectrum's resolution may hold no frequency at all and stays at the floor.

    Args:
        waveform: floats (samples,), in [-1, 1].
        sampling_rate: in Hz.
        num_mel_bins: the number of filters.
        frame_length: in ms; rounded down to whole samples, as is `frame_shift`.
        frame_shift: in ms, from the start of one frame to the next.
        window_type: "hanning", "hamming", "povey", "blackman" or "rectangular".
        low_freq: where the lowest filter starts, in Hz.
        high_freq: where the highest filter ends, in Hz; 0 or less counts from the Nyquist
            frequency.
        preemphasis: p in y[n] = x[n] - p·x[n-1].
        dither: standard deviation of the Gaussian noise added to each sample of each frame.
        rng: what draws that noise.
        dtype: precision of the computation and the result: float32, or float64 for parity work.

    Returns:
        `dtype` (frames, num_mel_bins), the natural log of the energies, floored at 2⁻²³;
        frames = 1 + (samples - samples a frame) // samples a shift.

    Raises:
        InputError: the waveform is not of floats (samples,), not finite or shorter than a
            frame, or an option is out of its range.
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise InputError(f"dtype is {dtype}: choose float32 or float64")
    frame_size, shift = frame_sizes(sampling_rate, frame_length, frame_shift)
    fft_size = next_power_of_two(frame_size)
    filters = _sparse_mel_bank(num_mel_bins, fft_size, sampling_rate, low_freq, high_freq, dtype)
    taper = window(window_type, frame_size).astype(dtype)
    if not 0 <= preemphasis <= 1:
        raise InputError(f"preemphasis is {preemphasis}: give a number from 0 to 1")
    if not 0 <= dither < np.inf:
        raise InputError(f"dither is {dither}: give 0 or a positive number")
    if dither and rng is None:
        raise InputError("dither needs a source of noise: pass rng=np.random.default_rng(seed)")

    samples, mean = _checked(waveform, frame_size, dtype)
    count = 1 + (len(samples) - frame_size) // shift
    hops = _hops(samples, mean, count - 1 + -(-frame_size // shift), shift)
    rest = 1 - preemphasis
    # The frames' means, of which pre-emphasis leaves so much.
    means = _frame_sums(hops, frame_size, count) * (rest / frame_size)
    log_mel = np.empty((count, num_mel_bins), dtype)
    rfft = _rfft()
    # A frame is a column, and the window stands in as many: whole rows make each step fast.
    width = min(BLOCK, count)
    columns = np.zeros((fft_size, width), dtype)
    tapers = np.repeat(taper, width).reshape(frame_size, width)
    for start in range(0, count, width):
        some = slice(start, min(start + width, count))
        x = columns[:frame_size, : some.stop - some.start]
        _emphasised_frames(hops[start:], means[some], rest, x)
        if rng is not None and dither:
            noise = (dither * rng.standard_normal(x.T.shape)).astype(dtype)
            x += _emphasised_noise(noise, rest).T
        x *= tapers[:, : x.shape[1]]
        spectrum = rfft(columns[:, : x.shape[1]], axis=0)[:-1]  # none reaches Nyquist
        squares = spectrum.view(dtype)  # real and imaginary parts by turns
        squares *= squares
        power = squares[:, ::2] + squares[:, 1::2]
        log_mel[some] = (filters @ power).T
    np.maximum(log_mel, LOG_FLOOR, out=log_mel)
    return np.log(log_mel, out=log_mel)


@lru_cache
def _rfft() -> Callable[..., np.ndarray]:
    """MKL's FFT where it is installed (the extra `mkl`), else SciPy's, three times as slow.

    They differ in rounding alone. MKL's works on one thread from then on, all over the process.
    """
    try:
        import mkl
        import mkl_fft
    except ImportError:
        return scipy.fft.rfft
    mkl.domain_set_num_threads(1, "fft")  # clips are worked on in parallel, not their frames
    return mkl_fft.rfft


def _hops(samples: np.ndarray, mean: np.floating, count: int, shift: int) -> np.ndarray:
    """The waveform less its mean, cut where frames begin: (count, shift), zeros at the end.

    Each frame loses its own mean later, so that this one changes nothing but rounding: it
    keeps float32 from spending its digits on a recording's constant offset.
    """
    hops = np.empty((count, shift), samples.dtype)
    flat = hops.reshape(-1)
    length = min(len(samples), len(flat))
    np.subtract(samples[:length], mean, out=flat[:length])
    flat[length:] = 0
    return hops


def _frame_sums(hops: np.ndarray, frame_size: int, count: int) -> np.ndarray:
    """The sums of `count` frames, of the hops that each is made of: (count,)."""
    whole, part = divmod(frame_size, hops.shape[1])
    of_hops = np.einsum("ij->i", hops)  # faster than np.sum
    sums = np.zeros(count, hops.dtype)
    for first in range(whole):
        sums += of_hops[first : first + count]
    if part:
        sums += np.einsum("ij->i", hops[whole : whole + count, :part])
    return sums


def _emphasised_frames(hops: np.ndarray, means: np.ndarray, rest: float, out: np.ndarray) -> None:
    """Pre-emphasised frames less `means` (frames,) into the columns of `out` (samples, frames).

    Each sample is worked on once, though frames share them: a hop of a frame is that of others.
    """
    frame_size, count = out.shape
    shift = hops.shape[1]
    starts = range(0, frame_size, shift)
    hops = hops[: count + len(starts) - 1]
    emphasised = np.ascontiguousarray(_emphasise(hops.reshape(-1), rest).reshape(hops.shape).T)
    for i, start in enumerate(starts):
        np.subtract(
            emphasised[: frame_size - start, i : i + count], means, out=out[start : start + shift]
        )
    np.subtract(rest * hops[:count, 0], means, out=out[0])


def _emphasised_noise(noise: np.ndarray, rest: float) -> np.ndarray:
    """What noise added to frames (frames, samples) is once they have been pre-emphasised."""
    emphasised = _emphasise(noise, rest)
    emphasised[:, 0] = rest * noise[:, 0]
    return emphasised - rest * noise.mean(axis=1, keepdims=True)


def _emphasise(samples: np.ndarray, rest: float) -> np.ndarray:
    """x[n] - (1 - rest) · x[n-1] along the last axis; what is at n = 0 has no meaning.

    Its terms are grouped so that a strong low tone cancels without rounding.
    """
    result = np.zeros_like(samples)
    np.subtract(samples[..., 1:], samples[..., :-1], out=result[..., 1:])
    result[..., 1:] += rest * samples[..., :-1]
    return result


def frame_sizes(sampling_rate: int, frame_length: float, frame_shift: float) -> tuple[int, int]:
    """Samples in a frame and from one frame to the next, from a rate in Hz and lengths in ms.

    Raises:
        InputError: the rate is not positive, or a length is under one (the frame's: two) samples.
    """
    if sampling_rate != int(sampling_rate) or sampling_rate <= 0:
        raise InputError(f"sampling_rate is {sampling_rate}: give a positive whole number of Hz")
    size = int(sampling_rate * frame_length / 1000)
    shift = int(sampling_rate * frame_shift / 1000)
    if size < 2:
        raise InputError(
            f"frame_length is {frame_length} ms, under two samples at {sampling_rate} Hz: "
            "give a longer one"
        )
    if shift < 1:
        raise InputError(
            f"frame_shift is {frame_shift} ms, under one sample at {sampling_rate} Hz: "
            "give a longer one"
        )
    return size, shift


def next_power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`."""
    return 1 << (size - 1).bit_length()


@lru_cache
def window(window_type: str, size: int) -> np.ndarray:
    """A window, float64 (size,), symmetric, read-only; from Kaldi's feature-window.cc.

    Raises:
        InputError: there is no window of that name.
    """
    angle = 2 * np.pi * np.arange(size) / (size - 1)
    match window_type:
        case "hanning":
            values = 0.5 - 0.5 * np.cos(angle)
        case "hamming":
            values = 0.54 - 0.46 * np.cos(angle)
        case "povey":
            values = (0.5 - 0.5 * np.cos(angle)) ** 0.85
        case "blackman":
            values = 0.42 - 0.5 * np.cos(angle) + 0.08 * np.cos(2 * angle)
        case "rectangular":
            values = np.ones(size)
        case _:
            raise InputError(
                f"window_type is {window_type!r}: choose hanning, hamming, povey, blackman or "
                "rectangular"
            )
    values.setflags(write=False)
    return values


@lru_cache
def mel_bank(
    num_mel_bins: int, fft_size: int, sampling_rate: int, low_freq: float, high_freq: float
) -> np.ndarray:
    """The filters' weights for a power spectrum, from Kaldi's mel-computations.cc.

    The filters are triangles in mel = 1127 · ln(1 + Hz / 700) (not in Hz, as librosa's are),
    their corners evenly spaced in mel from `low_freq` to `high_freq`, both in Hz.

    Returns:
        float64 (num_mel_bins, fft_size // 2), read-only; the spectrum's last value, at the
        Nyquist frequency, has no column, as it never counts.

    Raises:
        InputError: there are no filters, or the frequencies do not rise within the Nyquist
            frequency.
    """
    nyquist = sampling_rate / 2
    highest = high_freq if high_freq > 0 else nyquist + high_freq
    if num_mel_bins < 1:
        raise InputError(f"num_mel_bins is {num_mel_bins}: give a positive number")
    if not 0 <= low_freq < highest <= nyquist:
        raise InputError(
            f"low_freq {low_freq} and high_freq {high_freq} do not make a range within 0 to "
            f"{nyquist:g} Hz: give a low_freq under high_freq, and a high_freq up to half the "
            "sampling rate (0 or less counts from there)"
        )
    lowest_mel, highest_mel = _mel(low_freq), _mel(highest)
    width = (highest_mel - lowest_mel) / (num_mel_bins + 1)  # half a triangle's, in mel
    left = (lowest_mel + width * np.arange(num_mel_bins))[:, None]
    mel = _mel(np.arange(fft_size // 2) * (sampling_rate / fft_size))
    rise, fall = (mel - left) / width, (left + 2 * width - mel) / width
    weights = np.maximum(np.minimum(rise, fall), 0)
    weights.setflags(write=False)
    return weights


def _mel(hertz: npt.ArrayLike) -> np.ndarray:
    """Mel of frequencies in Hz, of any shape."""
    return 1127 * np.log1p(np.asarray(hertz) / 700)


@lru_cache
def _sparse_mel_bank(
    num_mel_bins: int,
    fft_size: int,
    sampling_rate: int,
    low_freq: float,
    high_freq: float,
    dtype: np.dtype,
) -> "scipy.sparse.csr_array":
    """`mel_bank` in sparse rows, since each frequency counts in two filters at most."""
    weights = mel_bank(num_mel_bins, fft_size, sampling_rate, low_freq, high_freq)
    return scipy.sparse.csr_array(weights.astype(dtype))


def _checked(
    waveform: npt.ArrayLike, frame_size: int, dtype: np.dtype
) -> tuple[np.ndarray, np.floating]:
    """The waveform as `dtype` (samples,), and its mean, if it is one and long enough."""
    samples = np.asarray(waveform)
    if samples.ndim != 1:
        raise InputError(
            f"the waveform has shape {samples.shape}: give one channel of shape (samples,)"
        )
    if not np.issubdtype(samples.dtype, np.floating):
        raise InputError(
            f"the waveform is {samples.dtype}: give floats in [-1, 1], which 16-bit integers "
            "become when divided by 32768"
        )
    if len(samples) < frame_size:
        raise InputError(
            f"the waveform has {len(samples)} samples and a frame takes {frame_size}: give a "
            "longer one, or pad it with zeros"
        )
    with np.errstate(all="ignore"):  # the error below tells, in one sentence
        samples = samples.astype(dtype, copy=False)
        mean = samples.mean()
    if not np.isfinite(mean):  # as it is not where a sample is not: one pass checks them all
        raise InputError("the waveform holds NaN or infinite samples: repair it or leave it out")
    return samples, mean
