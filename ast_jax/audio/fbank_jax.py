"""Kaldi's log-mel filterbank in JAX for batches on the device, and the model input from it.

Takes the steps of `ast_jax.audio.fbank_reference`, ordered for float32. Within a frame, loud and
quiet frequencies are up to 100 dB apart, so rounding errors of loud ones must stay small:

- Mean removal and pre-emphasis, (x[n] - m) - p·(x[n-1] - m), are computed as
  (x[n] - x[n-1]) + (1 - p)·(x[n-1] - m): the difference of 16-bit integers is exact.
- The spectrum is a matrix product instead of an FFT. An FFT first adds distant samples, which
  spreads the rounding errors of loud frequencies over all bins; a sum over neighboring samples
  against one frequency cancels the others. The error on recordings is two thirds of an FFT's.
- Each frame is folded about its middle into an even and an odd part, which takes two real
  products of a quarter of the size each. This shifts time by half a frame, to which the power
  spectrum is invariant.
"""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Num

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.audio.kaldi import LOG_FLOOR, frame_sizes, mel_bank, next_power_of_two, window
from ast_jax.errors import InputError


def input_values(
    waveforms: Array, lengths: Any, extractor: ASTFeatureExtractor
) -> Float[Array, "batch frames mel_bins"]:
    """Computes the model input of a padded batch, as the extractor does for each clip.

    A clip shorter than a frame, which the extractor rejects, is all padding under `jax.jit`, where
    lengths have no values to check.

    Args:
        waveforms: int16 or float (batch, samples), as for `fbank_jax`, at the extractor's
            sampling rate. Samples beyond `max_length` frames cost nothing.
        lengths: integers (batch,), the number of samples in each clip before padding.
        extractor: a constant of the compiled function.

    Returns:
        float32 (batch, max_length, num_mel_bins).

    Raises:
        InputError: the waveforms have a wrong shape or type, or a length is under a frame or over
            their samples.
    """
    rate, frames = extractor.sampling_rate, extractor.max_length
    size, _ = frame_sizes(rate)
    check_waveforms(waveforms)
    check_lengths(lengths, waveforms, size)
    fitted = _pad_or_cut(
        jnp.asarray(waveforms), min(max(waveforms.shape[1], size), extractor.max_samples)
    )
    log_mel = fbank_jax(fitted, sampling_rate=rate, num_mel_bins=extractor.num_mel_bins)
    log_mel = _mask(log_mel, jnp.asarray(lengths), rate)
    # Pad before normalization, as `feature_extractor.pad_or_cut` does.
    log_mel = _pad_or_cut(log_mel, frames)
    if not extractor.do_normalize:
        return log_mel
    return (log_mel - extractor.mean) / (2 * extractor.std)


def batch_input_values(
    batch: Mapping[str, Array], extractor: ASTFeatureExtractor
) -> Float[Array, "batch frames mel_bins"]:
    """Returns the model input of a batch, computing it on the device if the host did not.

    Args:
        batch: has `input_values`, or `waveforms` and `lengths` to compute them from. With
            `num_frames`, the input has as many frames as the waveforms, if they are fewer.
        extractor: the model's.
    """
    if "input_values" in batch:
        return batch["input_values"]
    if "num_frames" in batch:
        frames = extractor.num_frames(batch["waveforms"].shape[1])
        extractor = dataclasses.replace(extractor, max_length=frames)
    return input_values(batch["waveforms"], batch["lengths"], extractor)


def fbank_jax(
    waveforms: Array,
    lengths: Any = None,
    *,
    sampling_rate: int = 16000,
    num_mel_bins: int = 128,
    frame_length: float = 25.0,
    frame_shift: float = 10.0,
    window_type: str = "hanning",
    low_freq: float = 20.0,
    high_freq: float = 0.0,
    preemphasis: float = 0.97,
) -> Float[Array, "batch frames mel_bins"]:
    """Computes the log-mel energies of a batch of waveforms, as `ast_jax.fbank` does for one.

    The options are those of `ast_jax.fbank` and are constants of the compiled function. The
    computation is in float32 on every backend and in models of every precision.

    Args:
        waveforms: (batch, samples), floats in [-1, 1], or int16, where 32768 stands for 1.
        lengths: integers (batch,), the number of samples in each clip before padding; None if no
            clip is padded.
        sampling_rate: in Hz.
        num_mel_bins: the number of mel filters.
        frame_length: in ms.
        frame_shift: in ms.
        window_type: "hanning", "hamming", "povey", "blackman" or "rectangular".
        low_freq: in Hz.
        high_freq: in Hz; 0 or less is relative to the Nyquist frequency.
        preemphasis: p in y[n] = x[n] - p·x[n-1], from 0 to 1.

    Returns:
        float32 (batch, frames, num_mel_bins); 0 in frames with padding samples, as in the padding
        of the model input.

    Raises:
        InputError: the waveforms have a wrong shape or type or are shorter than a frame, a length
            is under a frame or over their samples, or an option is out of its range.
    """
    size, shift = frame_sizes(sampling_rate, frame_length, frame_shift)
    fft_size = next_power_of_two(size)
    filters = mel_bank(num_mel_bins, fft_size, sampling_rate, low_freq, high_freq)
    cosines, sines = _folded_dft(window_type, size, fft_size)
    if not 0 <= preemphasis <= 1:
        raise InputError(f"preemphasis is {preemphasis}: give a number from 0 to 1")
    check_waveforms(waveforms)
    if waveforms.shape[1] < size:
        raise InputError(
            f"the waveforms have {waveforms.shape[1]} samples and a frame takes {size}: pad them "
            "with zeros"
        )

    if lengths is not None:
        check_lengths(lengths, waveforms, size)

    scale = 2.0**-15 if waveforms.dtype == jnp.int16 else 1.0
    frames = _frames(jnp.asarray(waveforms).astype(jnp.float32) * scale, size, shift)
    # Without the barrier, XLA recomputes the frames for each use.
    even, odd = _fold(jax.lax.optimization_barrier(frames), preemphasis)
    power = _product(even, cosines) ** 2 + _product(odd, sines) ** 2
    energy = _product(power, filters.T.astype(np.float32))
    log_mel = jnp.log(jnp.maximum(energy, LOG_FLOOR))
    if lengths is None:
        return log_mel
    return _mask(log_mel, jnp.asarray(lengths), sampling_rate, frame_length, frame_shift)


def check_lengths(lengths: Any, waveforms: Any, frame_size: int) -> None:
    """Raises InputError unless there is an integer from a frame to all samples for each clip.

    Args:
        lengths: the number of samples in each clip before padding. Traced ones have no values to
            check.
        waveforms: (batch, samples).
        frame_size: samples in a frame.
    """
    batch, samples = waveforms.shape
    lengths = lengths if isinstance(lengths, jax.Array) else np.asarray(lengths)
    if lengths.shape != (batch,):
        raise InputError(
            f"lengths have shape {lengths.shape} and the waveforms {waveforms.shape}; give one "
            f"length per clip"
        )
    if not np.issubdtype(lengths.dtype, np.integer):
        raise InputError(f"lengths are {lengths.dtype}; give integers, the samples of each clip")
    if isinstance(lengths, jax.core.Tracer):
        return
    values = np.asarray(lengths)
    wrong = np.flatnonzero((values < frame_size) | (values > samples))
    if len(wrong):
        raise InputError(
            f"the length of clip {wrong[0]} (from 0) is {values[wrong[0]]}; give one from "
            f"{frame_size}, a frame, to {samples}, the samples of the waveforms"
        )


def _mask(
    log_mel: Float[Array, "batch frames mel_bins"],
    lengths: Int[Array, " batch"],
    sampling_rate: int,
    frame_length: float = 25.0,
    frame_shift: float = 10.0,
) -> Float[Array, "batch frames mel_bins"]:
    """Sets frames with samples beyond the lengths to 0."""
    size, shift = frame_sizes(sampling_rate, frame_length, frame_shift)
    num_frames = 1 + (lengths - size) // shift
    mask = jnp.arange(log_mel.shape[1]) < num_frames[:, None]
    return jnp.where(mask[:, :, None], log_mel, 0)


def check_waveforms(waveforms: Array) -> None:
    """Raises InputError unless the waveforms are int16 or floats (batch, samples)."""
    if waveforms.ndim != 2:
        raise InputError(f"the waveforms have shape {waveforms.shape}: give (batch, samples)")
    if waveforms.dtype not in (jnp.int16, jnp.float32, jnp.float64):
        raise InputError(f"the waveforms are {waveforms.dtype}: give int16, or float32 in [-1, 1]")


def _pad_or_cut(
    x: Num[Array, "batch samples *rest"], length: int
) -> Num[Array, "batch length *rest"]:
    """Zero-pads or cuts axis 1 to a length, at its end."""
    x = x[:, :length]
    missing = [(0, 0)] * x.ndim
    missing[1] = (0, length - x.shape[1])
    return jnp.pad(x, missing)


def _frames(
    waveforms: Float[Array, "batch samples"], size: int, shift: int
) -> Float[Array, "batch frames size"]:
    """Cuts waveforms into frames, whole ones only (Kaldi's `snip_edges`).

    Reshapes to rows of `shift` samples and concatenates the consecutive rows of each frame: this
    copies slices, where indexing would gather single samples.
    """
    batch, samples = waveforms.shape
    count = 1 + (samples - size) // shift
    rows_per_frame = -(-size // shift)
    rows = _pad_or_cut(waveforms, (count + rows_per_frame - 1) * shift).reshape(batch, -1, shift)
    slices = [rows[:, i : i + count] for i in range(rows_per_frame)]
    return jnp.concatenate(slices, axis=2)[:, :, :size]


def _fold(
    frames: Float[Array, "batch frames size"], preemphasis: float
) -> tuple[Float[Array, "batch frames half"], Float[Array, "batch frames half"]]:
    """Removes each frame's mean, pre-emphasizes it and folds it about its middle.

    All steps are linear; they are ordered for the smallest rounding error.

    Args:
        frames: (batch, frames, size).
        preemphasis: p in y[n] = x[n] - p·x[n-1].

    Returns:
        The even part, y[middle + n] + y[middle - n], and the odd part,
        y[middle + n] - y[middle - n], with half = ⌈size / 2⌉. If the size is odd, the first value
        is twice the middle sample in the even part and 0 in the odd part.
    """
    size = frames.shape[2]
    half = (size + 1) // 2

    def halves(x: Array) -> tuple[Array, Array]:
        return x[:, :, size - half :], x[:, :, :half][:, :, ::-1]

    previous = jnp.concatenate([frames[:, :, :1], frames[:, :, :-1]], axis=2)
    (right, left), (right_previous, left_previous) = halves(frames - previous), halves(previous)
    twice_mean = 2 * frames.mean(axis=2, keepdims=True)
    rest = 1 - preemphasis
    even = (right + left) + rest * ((right_previous + left_previous) - twice_mean)
    odd = (right - left) + rest * (right_previous - left_previous)
    return even, odd


@lru_cache
def _folded_dft(
    window_type: str, size: int, fft_size: int
) -> tuple[Float32[np.ndarray, "half fft_bins"], Float32[np.ndarray, "half fft_bins"]]:
    """Returns the matrices of the windowed DFT of folded frames.

    Returns:
        Cosines for the even part and sines for the odd part, (⌈size / 2⌉, fft_size // 2). The bin
        at the Nyquist frequency, where every mel filter is 0, is left out.
    """
    half = (size + 1) // 2
    taper = window(window_type, size)[size - half :, None].copy()
    from_middle = np.arange(half) + (0.5 if size % 2 == 0 else 0)
    if size % 2:
        taper[0] /= 2  # the middle sample counts twice in the even part
    angle = 2 * np.pi / fft_size * np.outer(from_middle, np.arange(fft_size // 2))
    return (taper * np.cos(angle)).astype(np.float32), (taper * np.sin(angle)).astype(np.float32)


def _product(
    x: Float[Array, "batch frames n"], matrix: Float[np.ndarray, "n m"]
) -> Float[Array, "batch frames m"]:
    """Multiplies in full float32; by default accelerators use fewer bits."""
    return jnp.matmul(x, matrix, precision=jax.lax.Precision.HIGHEST)
