"""Synthesizes sounds of ten classes, for a first training without a data set."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy  # imports scipy.signal, which is slow to import, on first use
import soundfile
from jaxtyping import Float32

from ast_jax.data.clips import Clips, DataSet
from ast_jax.io import atomic_write

SAMPLING_RATE = 16000
SECONDS = 1.25

Rng = np.random.Generator
Sound = Callable[[Rng, np.ndarray], np.ndarray]  # times in seconds → samples


def _pitch(rng: Rng, low: float = 250.0, high: float = 2500.0) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _tone(rng: Rng, t: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * _pitch(rng) * t)


def _organ(rng: Rng, t: np.ndarray) -> np.ndarray:
    return scipy.signal.square(2 * np.pi * _pitch(rng, 120, 400) * t)


def _rising(rng: Rng, t: np.ndarray) -> np.ndarray:
    low = _pitch(rng, 250, 900)
    return scipy.signal.chirp(t, low, t[-1], low * rng.uniform(3, 6), method="logarithmic")


def _falling(rng: Rng, t: np.ndarray) -> np.ndarray:
    return _rising(rng, t)[::-1]


def _siren(rng: Rng, t: np.ndarray) -> np.ndarray:
    pitch, rate = _pitch(rng, 500, 1500), rng.uniform(2.5, 5)
    swing = 0.35 * pitch / rate * np.sin(2 * np.pi * rate * t)
    return np.sin(2 * np.pi * pitch * t + swing)


def _beeps(rng: Rng, t: np.ndarray) -> np.ndarray:
    return _tone(rng, t) * (scipy.signal.square(2 * np.pi * rng.uniform(3, 7) * t) > 0)


def _bell(rng: Rng, t: np.ndarray) -> np.ndarray:
    pitch = _pitch(rng, 300, 900)
    partials = ((1.0, 1.0), (2.76, 0.7), (5.4, 0.5), (8.9, 0.3))
    return sum(a * np.exp(-3 * r**0.5 * t) * np.sin(2 * np.pi * r * pitch * t) for r, a in partials)


def _clicks(rng: Rng, t: np.ndarray) -> np.ndarray:
    phase = (t * rng.uniform(5, 12) + rng.uniform()) % 1
    return rng.standard_normal(t.size) * np.exp(-phase * 40)


def _hiss(rng: Rng, t: np.ndarray) -> np.ndarray:
    return scipy.signal.lfilter([1, -0.9], [1], rng.standard_normal(t.size))


def _rumble(rng: Rng, t: np.ndarray) -> np.ndarray:
    return scipy.signal.lfilter([1], [1, -0.98], rng.standard_normal(t.size))


SOUNDS: dict[str, Sound] = {
    "beeps": _beeps,
    "bell": _bell,
    "clicks": _clicks,
    "falling": _falling,
    "hiss": _hiss,
    "organ": _organ,
    "rising": _rising,
    "rumble": _rumble,
    "siren": _siren,
    "tone": _tone,
}


def synthesize(label: str, rng: Rng) -> Float32[np.ndarray, "20000"]:
    """Synthesizes a clip of one of `SOUNDS`, 1.25 s at 16 kHz.

    Pitch, onset, length, level and background noise are random.
    """
    samples = int(SECONDS * SAMPLING_RATE)
    length = int(samples * rng.uniform(0.6, 0.9))
    sound = SOUNDS[label](rng, np.arange(length) / SAMPLING_RATE)
    fade = np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / 400)
    level = 10 ** rng.uniform(-1.5, -0.3)
    clip = rng.standard_normal(samples) * level * 10 ** rng.uniform(-2.5, -1.2)
    start = rng.integers(samples - length + 1)
    clip[start : start + length] += level * fade * sound / np.abs(sound).max()
    return np.clip(clip, -1, 1).astype(np.float32)


def make_synthetic(train_clips: int, evaluation_clips: int, seed: int) -> DataSet:
    """Synthesizes numbers of training and evaluation clips per class, all of them different."""
    labels = list(SOUNDS)
    sides = []
    for side, count in enumerate((train_clips, evaluation_clips)):
        rng = np.random.default_rng([seed, 2, side])
        clips = [(label, i) for i in range(count) for label in labels]
        waveforms = [synthesize(label, rng) for label, _ in clips]
        targets = np.eye(len(labels), dtype=np.float32)[np.arange(len(clips)) % len(labels)]
        sides.append(Clips(waveforms, targets, [f"{label} {i}" for label, i in clips]))
    train, evaluation = sides
    return DataSet(labels, train, evaluation)


def write_unseen(folder: Path, seed: int) -> None:
    """Writes one WAV per class that is not among the clips of `make_synthetic` of this seed.

    Raises:
        InputError: a file cannot be written.
    """
    rng = np.random.default_rng([seed, 2, 2])
    for label in SOUNDS:
        # Encoded in memory, as libsndfile does not say why a file cannot be written.
        content = io.BytesIO()
        soundfile.write(content, synthesize(label, rng), SAMPLING_RATE, format="WAV")
        with atomic_write(folder / f"{label}.wav", replace=True) as temporary:
            temporary.write_bytes(content.getvalue())
