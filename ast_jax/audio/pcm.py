"""Samples as 16-bit integers, as files and prepared sets hold them, and as float32 in [-1, 1]."""

import numpy as np

FULL_SCALE = 32768  # 1.0 in 16 bits


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """float32 (samples,) in [-1, 1] → int16; what is beyond is clipped. int16 stays as it is."""
    if waveform.dtype == np.int16:
        return waveform
    scaled = waveform * np.float32(FULL_SCALE)
    np.rint(scaled, out=scaled)
    if len(scaled) and (scaled.max() >= FULL_SCALE or scaled.min() < -FULL_SCALE):
        np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1, out=scaled)
    return scaled.astype(np.int16)


def to_float(waveform: np.ndarray) -> np.ndarray:
    """int16 (samples,) → float32 in [-1, 1). float32 stays as it is."""
    if waveform.dtype != np.int16:
        return waveform
    samples = waveform.astype(np.float32)
    samples *= np.float32(1 / FULL_SCALE)
    return samples
