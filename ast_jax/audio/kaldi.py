"""Kaldi's frame sizes, windows and mel filters, which every frontend of this package shares.

Source: feature-window.cc and mel-computations.cc of Kaldi.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Real

from ast_jax.errors import InputError

LOG_FLOOR = 2.0**-23  # float32's epsilon, in every precision


def frame_sizes(
    sampling_rate: int, frame_length: float = 25.0, frame_shift: float = 10.0
) -> tuple[int, int]:
    """Returns the number of samples in a frame and between the starts of two frames.

    Args:
        sampling_rate: in Hz.
        frame_length: in ms; rounded down to whole samples, as is `frame_shift`.
        frame_shift: in ms.

    Raises:
        InputError: the rate is not a positive whole number, the frame has fewer than two samples
            or the shift is under one.
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
    """Returns the smallest power of two that is at least `size`."""
    return 1 << (size - 1).bit_length()


@lru_cache
def window(window_type: str, size: int) -> Float[np.ndarray, " size"]:
    """Returns a symmetric window in float64, read-only.

    Raises:
        InputError: the type is unknown.
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
) -> Float[np.ndarray, "mel_bins fft_bins"]:
    """Returns the weights of the mel filters for a power spectrum.

    The filters are triangles in mel = 1127 · ln(1 + Hz / 700) (not in Hz, as librosa's are) with
    corners evenly spaced in mel from `low_freq` to `high_freq`. A filter that is narrower than
    the spectrum's resolution may be empty.

    Args:
        num_mel_bins: the number of filters.
        fft_size: the number of samples that the FFT takes.
        sampling_rate: in Hz.
        low_freq: the lower end of the lowest filter, in Hz.
        high_freq: the upper end of the highest filter, in Hz; 0 or less is relative to the
            Nyquist frequency.

    Returns:
        float64 (num_mel_bins, fft_size // 2), read-only. The bin at the Nyquist frequency, where
        every filter is 0, is left out.

    Raises:
        InputError: the number of filters is not positive, or the frequencies do not rise within
            the Nyquist frequency.
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


def mel_position(
    hertz: Real[np.ndarray, " n"],
    num_mel_bins: int,
    sampling_rate: int,
    low_freq: float = 20.0,
    high_freq: float = 0.0,
) -> Float[np.ndarray, " n"]:
    """Returns where frequencies are among the mel filters: i at the center of filter i, from 0.

    Arguments are those of `mel_bank`; the defaults are those of `fbank`.
    """
    highest = high_freq if high_freq > 0 else sampling_rate / 2 + high_freq
    lowest_mel, highest_mel = _mel(low_freq), _mel(highest)
    return (_mel(hertz) - lowest_mel) / (highest_mel - lowest_mel) * (num_mel_bins + 1) - 1


def mel_frequency(
    position: Real[np.ndarray, " n"], num_mel_bins: int, sampling_rate: int
) -> Float[np.ndarray, " n"]:
    """Returns the frequencies in Hz at positions among the filters of `fbank`.

    It is the inverse of `mel_position`.
    """
    lowest_mel, highest_mel = _mel(20.0), _mel(sampling_rate / 2)
    mel = lowest_mel + (position + 1) / (num_mel_bins + 1) * (highest_mel - lowest_mel)
    return 700 * np.expm1(mel / 1127)


def _mel(hertz: npt.ArrayLike) -> Any:
    """Converts frequencies from Hz to mel."""
    return 1127 * np.log1p(np.asarray(hertz) / 700)
