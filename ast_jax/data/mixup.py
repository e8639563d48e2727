"""Mixup of waveforms before the log-mel, as in the original (src/dataloader.py)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int16

from ast_jax.audio.pcm import FULL_SCALE, Waveform

OtherWaveform = Float32[np.ndarray, " other_samples"] | Int16[np.ndarray, " other_samples"]

ALPHA = 10.0  # λ ~ Beta(ALPHA, ALPHA)


class MixupSample(NamedTuple):
    """The random part of mixup for one clip.

    Attributes:
        partner: index of the clip to mix in; None for no mixup.
        lam: λ, the weight of the clip itself.
    """

    partner: int | None
    lam: float


def sample_mixup(seed: int, position: int, rate: float, num_clips: int) -> MixupSample:
    """Samples partner and λ for one position of the training, as a function of (seed, position).

    With probability `rate` the partner is uniform over the data set and λ ~ Beta(10, 10);
    otherwise there is no partner.
    """
    rng = np.random.default_rng([seed, 1, position])
    if rng.random() >= rate:
        return MixupSample(None, 1.0)
    return MixupSample(int(rng.integers(num_clips)), float(rng.beta(ALPHA, ALPHA)))


def mixup(first: Waveform, second: OtherWaveform, lam: float) -> Float32[np.ndarray, " samples"]:
    """Returns λ · first + (1 - λ) · second, in the length of the first.

    Zero-pads or cuts the second to that length. Removes the mean of each waveform before mixing,
    and of the mix. Scales int16 waveforms to [-1, 1].
    """
    # Removing the mix's mean removes both waveforms' means where both have samples. The second's
    # has to be removed separately only if it is shorter.
    length = min(len(first), len(second))
    mixed = _scale(first, lam)
    rest = _scale(second, 1 - lam)
    if length < len(first):
        rest -= rest.mean()
    mixed[:length] += rest[:length]
    mixed -= mixed.mean()
    return mixed


def mixup_to_longer(
    first: Waveform, second: OtherWaveform, lam: float
) -> Float32[np.ndarray, " longer"]:
    """Returns the mix in the length of the longer waveform, as `mixup` of it and the shorter."""
    if len(second) > len(first):
        return mixup(second, first, 1 - lam)
    return mixup(first, second, lam)


def _scale(waveform: Waveform, factor: float) -> Float32[np.ndarray, " scaled"]:
    """Returns the waveform in [-1, 1] times a factor, as a new array."""
    unit = 1 / FULL_SCALE if waveform.dtype == np.int16 else 1
    scaled = waveform.astype(np.float32)
    scaled *= np.float32(factor * unit)
    return scaled
