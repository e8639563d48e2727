"""Mixup of waveforms, as the original does it before the log-mel (src/dataloader.py)."""

from typing import NamedTuple

import numpy as np

from ast_jax.audio.pcm import FULL_SCALE

ALPHA = 10.0  # of the Beta distribution that a mix's share is drawn from


class Draw(NamedTuple):
    """Which clip to mix in, and how much of the first remains; no partner, no mix."""

    partner: int | None
    share: float


def draw(seed: int, position: int, rate: float, num_clips: int) -> Draw:
    """The mix of the clip at one position of a training, a function of (seed, position).

    With probability `rate` a partner drawn uniformly over the whole set, and
    λ ~ Beta(10, 10).
    """
    rng = np.random.default_rng([seed, 1, position])
    if rng.random() >= rate:
        return Draw(None, 1.0)
    return Draw(int(rng.integers(num_clips)), float(rng.beta(ALPHA, ALPHA)))


def mix(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """`share` of the first waveform and the rest of the second, float32 (samples of the first,).

    The second is zero-padded or cut to the first's length. Each has its mean removed before,
    and the mix afterwards. int16 waveforms are taken as the floats they stand for.
    """
    # Removing the mix's mean takes each clip's own with it, as far as both reach: the second's
    # must go by itself only where it ends early.
    length = min(len(first), len(second))
    mixed = _scaled(first, share)
    rest = _scaled(second, 1 - share)
    if length < len(first):
        rest -= rest.mean()
    mixed[:length] += rest[:length]
    mixed -= mixed.mean()
    return mixed


def _scaled(waveform: np.ndarray, share: float) -> np.ndarray:
    """A new float32 array of the waveform times `share`."""
    unit = 1 / FULL_SCALE if waveform.dtype == np.int16 else 1
    scaled = waveform.astype(np.float32)
    scaled *= np.float32(share * unit)
    return scaled
