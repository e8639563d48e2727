"""Converts samples between 16-bit integers, which prepared sets store, and float32 in [-1, 1]."""

import numpy as np
from jaxtyping import Float, Float32, Int16

Waveform = Float32[np.ndarray, " samples"] | Int16[np.ndarray, " samples"]

FULL_SCALE = 32768  # the int16 value of 1.0, one more than the largest


def peak_of(samples: Float[np.ndarray, "..."]) -> float:
    """Returns the largest absolute value, NaN if there is one and 0 if there are no samples."""
    return float(np.maximum(samples.max(), -samples.min())) if samples.size else 0.0


def clip_waveform(waveform: Float32[np.ndarray, " samples"]) -> Float32[np.ndarray, " samples"]:
    """Clips a waveform in place to the range of int16, as `to_int16` does."""
    return np.clip(waveform, -1, (FULL_SCALE - 1) / FULL_SCALE, out=waveform)


def to_int16(waveform: Waveform) -> Int16[np.ndarray, " samples"]:
    """Rounds float32 samples to int16 and clips them; returns int16 samples unchanged."""
    if waveform.dtype == np.int16:
        return waveform
    scaled = waveform * np.float32(FULL_SCALE)
    np.rint(scaled, out=scaled)
    if len(scaled) and (scaled.max() >= FULL_SCALE or scaled.min() < -FULL_SCALE):
        np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1, out=scaled)
    return scaled.astype(np.int16)


def to_float(waveform: Waveform) -> Float32[np.ndarray, " samples"]:
    """Scales int16 samples to float32 in [-1, 1); returns float32 samples unchanged."""
    if waveform.dtype != np.int16:
        return waveform
    samples = waveform.astype(np.float32)
    samples *= np.float32(1 / FULL_SCALE)
    return samples
