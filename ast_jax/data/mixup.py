"""Mixup of waveforms, as the original does it before the log-mel (src/dataloader.py)."""

from typing import NamedTuple

import numpy as np

from ast_jax.audio.pcm import to_float

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
    first, second = to_float(first), to_float(second)
    length = min(len(first), len(second))
    mixed = first * np.float32(share)
    mixed[:length] += second[:length] * np.float32(1 - share)
    # The means once more in one: what was padded has none to remove.
    means = share * first.mean(), (1 - share) * second.mean()
    mixed -= np.float32(means[0])
    mixed[:length] -= np.float32(means[1])
    mixed -= mixed.mean()
    return mixed
