"""Kaldi's log-mel filterbank in JAX: `fbank` for a batch on the device, and the model's input.

The steps are those of `ast_jax.audio.fbank`, arranged for float32. Within a frame loud and quiet
frequencies lie up to 100 dB apart, so nothing may round at the level of the loud ones without
need:

- Kaldi's (x[n] - m) - p·(x[n-1] - m), with m the frame's mean, is computed as
  (x[n] - x[n-1]) + (1 - p)·(x[n-1] - m), as the difference of 16-bit integers is exact.
- The spectrum is a product with a matrix, not an FFT. An FFT first adds samples that are far
  apart, which lets loud frequencies into every intermediate result and their rounding into every
  bin. A sum over neighbouring samples against one frequency cancels the others on its way.
  On real recordings the log-mel has two thirds of the error.
- Folding a frame about its middle into an even and an odd part leaves two real products of a
  quarter of the size each. It shifts time by half a frame, which the power does not see.
"""

from collections.abc import Mapping
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.audio.kaldi import LOG_FLOOR, frame_sizes, mel_bank, next_power_of_two, window
from ast_jax.errors import InputError


def input_values(
    waveforms: jax.Array, lengths: jax.Array, extractor: ASTFeatureExtractor
) -> jax.Array:
    """The model's input for a padded batch: what the extractor gives for each clip.

    A clip shorter than a frame, which the extractor refuses, is all padding.

    Args:
        waveforms: int16 or floats (batch, samples), as for `fbank_jax`, at the extractor's
            sampling rate. Samples that `max_length` frames do not take cost nothing.
        lengths: integers (batch,), how many samples are each clip's own.
        extractor: a constant of the compiled function.

    Returns:
        float32 (batch, max_length, num_mel_bins).

    Raises:
        InputError: the waveforms have a wrong shape or type.
    """
    rate, frames = extractor.sampling_rate, extractor.max_length
    size, shift = frame_sizes(rate)
    _check(waveforms)
    needed = size + (frames - 1) * shift
    fitted = _pad_or_cut(waveforms, min(max(waveforms.shape[1], size), needed))
    log_mel = fbank_jax(fitted, lengths, sampling_rate=rate, num_mel_bins=extractor.num_mel_bins)
    # The padding is put there before normalisation, as in `feature_extractor.pad_or_cut`.
    log_mel = _pad_or_cut(log_mel, frames)
    if not extractor.do_normalize:
        return log_mel
    return (log_mel - extractor.mean) / (2 * extractor.std)


def batch_input_values(batch: Mapping[str, jax.Array], extractor: ASTFeatureExtractor) -> jax.Array:
    """Returns a batch's model input, float32 (batch, max_length, num_mel_bins).

    Args:
        batch: holds `input_values` that the host computed, or `waveforms` and `lengths`, from
            which they are computed here, on the device.
        extractor: of the model.
    """
    if "input_values" in batch:
        return batch["input_values"]
    return input_values(batch["waveforms"], batch["lengths"], extractor)


def fbank_jax(
    waveforms: jax.Array,
    lengths: jax.Array | None = None,
    *,
    sampling_rate: int = 16000,
    num_mel_bins: int = 128,
    frame_length: float = 25.0,
    frame_shift: float = 10.0,
    window_type: str = "hanning",
    low_freq: float = 20.0,
    high_freq: float = 0.0,
    preemphasis: float = 0.97,
) -> jax.Array:
    """Log-mel energies of a batch of waveforms, as `ast_jax.fbank` computes them for one.

    The options mean what they mean there, and are constants of the compiled function. All is
    float32, on any backend and in a model of any precision.

    Args:
        waveforms: (batch, samples), floats in [-1, 1], or int16, of which 32768 is 1.
        lengths: integers (batch,), how many samples are each clip's own; all, where not given.
        sampling_rate: in Hz.
        num_mel_bins: the number of filters.
        frame_length: in ms.
        frame_shift: in ms.
        window_type: "hanning", "hamming", "povey", "blackman" or "rectangular".
        low_freq: in Hz.
        high_freq: in Hz; 0 or less counts from the Nyquist frequency.
        preemphasis: p in y[n] = x[n] - p·x[n-1].

    Returns:
        float32 (batch, frames, num_mel_bins). Frames that are not all of a clip's own samples
        are 0, which is the padding of the model's input.

    Raises:
        InputError: the waveforms have a wrong shape or type or are shorter than a frame, or an
            option is out of its range.
    """
    size, shift = frame_sizes(sampling_rate, frame_length, frame_shift)
    fft_size = next_power_of_two(size)
    filters = mel_bank(num_mel_bins, fft_size, sampling_rate, low_freq, high_freq)
    cosines, sines = _folded_dft(window_type, size, fft_size)
    if not 0 <= preemphasis <= 1:
        raise InputError(f"preemphasis is {preemphasis}: give a number from 0 to 1")
    _check(waveforms)
    if waveforms.shape[1] < size:
        raise InputError(
            f"the waveforms have {waveforms.shape[1]} samples and a frame takes {size}: pad them "
            "with zeros"
        )

    scale = 2.0**-15 if waveforms.dtype == jnp.int16 else 1.0
    frames = _frames(waveforms.astype(jnp.float32) * scale, size, shift)
    # Without the barrier XLA cuts out each frame anew for each of its uses.
    even, odd = _fold(jax.lax.optimization_barrier(frames), preemphasis)
    power = _product(even, cosines) ** 2 + _product(odd, sines) ** 2
    energy = _product(power, filters.T.astype(np.float32))
    log_mel = jnp.log(jnp.maximum(energy, LOG_FLOOR))
    if lengths is None:
        return log_mel
    own = 1 + (lengths - size) // shift
    is_own = jnp.arange(log_mel.shape[1]) < own[:, None]
    return jnp.where(is_own[:, :, None], log_mel, 0)


def _check(waveforms: jax.Array) -> None:
    """Raises an InputError unless the waveforms are int16 or floats (batch, samples)."""
    if waveforms.ndim != 2:
        raise InputError(f"the waveforms have shape {waveforms.shape}: give (batch, samples)")
    if waveforms.dtype not in (jnp.int16, jnp.float32, jnp.float64):
        raise InputError(f"the waveforms are {waveforms.dtype}: give int16, or float32 in [-1, 1]")


def _pad_or_cut(x: jax.Array, length: int) -> jax.Array:
    """(batch, samples, …) → (batch, length, …), zeros at the end or the end cut off."""
    x = x[:, :length]
    missing = [(0, 0)] * x.ndim
    missing[1] = (0, length - x.shape[1])
    return jnp.pad(x, missing)


def _frames(waveforms: jax.Array, size: int, shift: int) -> jax.Array:
    """(batch, samples) → (batch, frames, size), whole frames only (Kaldi's `snip_edges`).

    Frames are cut out as rows of `shift` samples, of which each takes the next few: whole slices
    are moved where indexing would gather samples one by one.
    """
    batch, samples = waveforms.shape
    count = 1 + (samples - size) // shift
    taken = -(-size // shift)
    rows = _pad_or_cut(waveforms, (count + taken - 1) * shift).reshape(batch, -1, shift)
    return jnp.concatenate([rows[:, i : i + count] for i in range(taken)], axis=2)[:, :, :size]


def _fold(frames: jax.Array, preemphasis: float) -> tuple[jax.Array, jax.Array]:
    """Removes each frame's mean, pre-emphasises it and folds it about its middle.

    A frame's first sample is taken to follow itself. Each step is linear, so that they are
    written in the order that rounds least.

    Args:
        frames: (batch, frames, size).
        preemphasis: p in y[n] = x[n] - p·x[n-1].

    Returns:
        y[middle + n] + y[middle - n] and y[middle + n] - y[middle - n], both
        (batch, frames, ⌈size / 2⌉); the middle of an odd number of samples comes first, twice
        in the one and as 0 in the other.
    """
    size = frames.shape[2]
    half = (size + 1) // 2

    def halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return x[:, :, size - half :], x[:, :, :half][:, :, ::-1]

    before = jnp.concatenate([frames[:, :, :1], frames[:, :, :-1]], axis=2)
    (right, left), (right_before, left_before) = halves(frames - before), halves(before)
    twice_mean = 2 * frames.mean(axis=2, keepdims=True)
    rest = 1 - preemphasis
    even = (right + left) + rest * ((right_before + left_before) - twice_mean)
    odd = (right - left) + rest * (right_before - left_before)
    return even, odd


@lru_cache
def _folded_dft(window_type: str, size: int, fft_size: int) -> tuple[np.ndarray, np.ndarray]:
    """What turns folded frames into the parts of their spectrum, with the window in it.

    Returns:
        Cosines for the even parts and sines for the odd ones, float32 (⌈size / 2⌉, fft_size // 2);
        the spectrum's last value, at the Nyquist frequency, has no column, as no filter has it.
    """
    half = (size + 1) // 2
    taper = window(window_type, size)[size - half :, None].copy()
    from_middle = np.arange(half) + (0.5 if size % 2 == 0 else 0)
    if size % 2:
        taper[0] /= 2  # the middle sample is folded onto itself
    angle = 2 * np.pi / fft_size * np.outer(from_middle, np.arange(fft_size // 2))
    return (taper * np.cos(angle)).astype(np.float32), (taper * np.sin(angle)).astype(np.float32)


def _product(x: jax.Array, matrix: np.ndarray) -> jax.Array:
    """A matrix product in whole float32; accelerators would use fewer bits unless told."""
    return jnp.matmul(x, matrix, precision=jax.lax.Precision.HIGHEST)
