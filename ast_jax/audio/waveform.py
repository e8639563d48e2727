"""Converts arrays and tensors of any library to waveforms."""

import numbers
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from ast_jax.audio.pcm import FULL_SCALE, peak_of, to_float
from ast_jax.errors import InputError

SAMPLING_RATES = (1000, 1_000_000)  # in Hz; others are mistakes
MAX_CHANNELS = 64  # of a stream; a chunk of more is (channels, samples), a mistake
LOUDEST = 100  # floats beyond it are taken for integers that were not divided by their full scale
LARGEST = 1e15  # the power spectrum of a larger sample overflows float32


def to_array(waveform: Any) -> np.ndarray:
    """Returns an array or a tensor of any library as a NumPy array; bfloat16 becomes float32.

    Raises:
        InputError: it is not an array of one shape.
    """
    try:
        if hasattr(waveform, "detach"):  # a PyTorch tensor; NumPy has no bfloat16
            waveform = waveform.detach().cpu()
            waveform = (waveform.float() if waveform.is_floating_point() else waveform).numpy()
        array = np.asarray(waveform)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the waveform, a {type(waveform).__name__}, cannot become an array of shape "
            f"(samples,): give a NumPy array"
        ) from error
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def check_mono(array: np.ndarray) -> None:
    """Raises `InputError` unless the shape is (samples,); names stereo as such."""
    if array.ndim == 1:
        return
    if array.ndim == 2 and min(array.shape) == 2 < max(array.shape):
        axis = array.shape.index(2)
        scale = f" / {FULL_SCALE}" if np.issubdtype(array.dtype, np.int16) else ""
        raise InputError(
            f"the waveform has shape {array.shape}, which looks like stereo: average the channels "
            f"with waveform.mean(axis={axis}){scale}"
        )
    raise InputError(f"the waveform has shape {array.shape}: give one channel of shape (samples,)")


def mix_to_mono(
    block: Float32[np.ndarray, "samples channels"],
) -> Float32[np.ndarray, " samples"]:
    """Averages the channels."""
    match block.shape[1]:
        case 1:
            return block[:, 0]
        case 2:  # in a quarter of the time of `mean`, with its result
            mono = block[:, 0] + block[:, 1]
            mono *= np.float32(0.5)
            return mono
    return block.mean(axis=1)


def to_waveform(waveform: Any) -> Float32[np.ndarray, " samples"]:
    """Returns float32 (samples,) of an array or tensor of any library with one channel.

    Args:
        waveform: floats in [-1, 1], or int16 with a full scale of 32768; (samples,), or with an
            axis of length 1 for the channel. Floats beyond 100 cause a warning.

    Raises:
        InputError: it has another shape or type, or no samples.
    """
    array = to_array(waveform)
    if array.ndim == 2 and 1 in array.shape and array.size > 1:
        array = array.reshape(-1)
    check_mono(array)
    if not len(array):
        raise InputError("the waveform is empty: leave it out")
    is_int16 = np.issubdtype(array.dtype, np.int16)  # of either byte order
    if not is_int16 and not np.issubdtype(array.dtype, np.floating):
        raise InputError(
            f"the waveform is {array.dtype}: give floats in [-1, 1], or int16 with a full scale of "
            f"{FULL_SCALE}"
        )
    with np.errstate(over="ignore"):  # an overflow to infinity is reported below
        samples = to_float(array.astype(np.int16 if is_int16 else np.float32))
    peak = np.abs(samples).max()
    if not np.isfinite(peak):
        check_peak(array)  # names the value before its conversion
    if peak > LOUDEST:
        warnings.warn(
            f"the waveform reaches {peak:.6g}, and floats are expected in [-1, 1]: divide 16-bit "
            f"samples by {FULL_SCALE}",
            stacklevel=2,
        )
    return samples


def check_peak(samples: Float[np.ndarray, "..."], name: str = "the waveform") -> float:
    """Returns the largest absolute value; raises InputError if it cannot be computed with."""
    peak = peak_of(samples)
    if not np.isfinite(peak):
        raise InputError(f"{name} holds NaN or infinite samples: repair it or leave it out")
    if peak > LARGEST:
        raise InputError(f"{name} reaches {peak:.4g}: scale it to [-1, 1]")
    return peak


def check_sampling_rate(rate: Any) -> int:
    """Returns the sampling rate of an array as an int.

    Raises:
        InputError: it is missing, not a whole number or out of range.
    """
    if rate is None:
        raise InputError("sampling_rate is missing; give the waveform's, in Hz")
    if getattr(rate, "shape", None) == ():  # an array or tensor, as of a formatted `datasets`
        rate = rate.item()
    low, high = SAMPLING_RATES
    is_number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
    if not (is_number and low <= rate <= high and rate == int(rate)):
        raise InputError(
            f"sampling_rate is {rate!r}; give a whole number of Hz from {low} to {high}"
        )
    return int(rate)
