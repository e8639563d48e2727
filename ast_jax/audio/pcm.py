"""Samples as 16-bit integers, as files and prepared sets hold them, and as float32 in [-1, 1]."""

import numpy as np

FULL_SCALE = 32768  # 1.0 in 16 bits


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """float32 (samples,) in [-1, 1] → int16; what is beyond is clipped. int16 stays as it is."""
    if waveform.dtype == np.int16:
        return waveform
    scaled = np.rint(waveform * np.float32(FULL_SCALE))
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def to_float(waveform: np.ndarray) -> np.ndarray:
    """int16 (samples,) → float32 in [-1, 1). float32 stays as it is."""
    if waveform.dtype != np.int16:
        return waveform
    return np.multiply(waveform, np.float32(1 / FULL_SCALE), dtype=np.float32)
