"""The peer of `pipeline.py`: the original AST's data loading in PyTorch, and clips to load.

The original (src/dataloader.py) decodes a WAV file, removes its mean, mixes in another one and
computes Kaldi's fbank with torchaudio. Where torchaudio cannot be imported, Hugging Face's
extractor falls back to NumPy, and so does this peer.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from common import RATE, Compute, hugging_face_extractor, make_clip, torchaudio_fbank
from torch.utils.data import DataLoader, RandomSampler

FRAMES, MEAN, STD = 1024, -4.2677393, 4.5689974
CLASSES = 10  # of generated clips


def model_input() -> tuple[str, Compute]:
    """Returns a frontend's name and the frontend: waveform → model input (1024, 128)."""
    fbank = torchaudio_fbank()
    if fbank is None:
        return "Hugging Face's NumPy features", hugging_face_extractor()

    def compute(waveform: np.ndarray) -> np.ndarray:
        log_mel = fbank(waveform)[:FRAMES]
        log_mel = np.pad(log_mel, ((0, FRAMES - len(log_mel)), (0, 0)))
        return (log_mel - np.float32(MEAN)) / np.float32(2 * STD)

    return "torchaudio's fbank", compute


class Recordings:
    """The original's dataset: (model input, target) of a WAV file, mixed up at a given rate.

    Args:
        files: (path, class) of each WAV file, at 16 kHz.
        classes: the number of classes.
        mixup: the fraction of clips that are mixed with another.
    """

    def __init__(self, files: list[tuple[Path, int]], classes: int, mixup: float):
        self.files, self.classes, self.mixup = files, classes, mixup
        self._rng = self._compute = None  # created in the worker process

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if self._compute is None:
            self._rng = np.random.default_rng(torch.initial_seed())  # each worker has its own
            _, self._compute = model_input()
        waveform, target = self._read(index)
        if self._rng.random() < self.mixup:
            second, second_target = self._read(int(self._rng.integers(len(self.files))))
            lam = np.float32(self._rng.beta(10, 10))
            second = np.pad(second[: len(waveform)], (0, max(0, len(waveform) - len(second))))
            waveform = lam * waveform + (1 - lam) * second
            waveform -= waveform.mean()
            target = lam * target + (1 - lam) * second_target
        return self._compute(waveform), target

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        import soundfile

        path, label = self.files[index]
        waveform, _ = soundfile.read(path, dtype="float32", always_2d=True)
        waveform = waveform[:, 0]
        target = np.zeros(self.classes, np.float32)
        target[label] = 1
        return waveform - waveform.mean(), target


def batches(recordings: Recordings, batch_size: int, workers: int) -> Iterator[list[torch.Tensor]]:
    """Returns an endless DataLoader; its workers are spawned, as JAX's threads rule out fork."""
    sampler = RandomSampler(recordings, replacement=True, num_samples=10**9)
    loader = DataLoader(
        recordings,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        multiprocessing_context="spawn",
    )
    return iter(loader)


def write_clips(folder: Path, source: str, clips: int) -> tuple[dict[str, Path], list[Path]]:
    """Writes the same clips to two folders, half to `train` and half to `test`.

    One folder has 16-bit WAV at 16 kHz, the other the files of `source`, or FLAC at 44.1 kHz if
    `source` is empty.

    Returns:
        The folders by a description of their files, and the training WAVs.
    """
    import soundfile
    import soxr

    from ast_jax.audio.decode import load_audio
    from ast_jax.data.sources.files import is_sound

    paths: list[Path] = []
    if source:
        paths = sorted(path for path in Path(source).iterdir() if is_sound(path.name))[:clips]
        if len(paths) < 4:
            sys.exit(f"{source} holds {len(paths)} sound files; give a folder with four or more")
        clips = len(paths)
    wavs, others = folder / "wav", folder / "other"
    train = []
    for i in range(clips):
        split, label = ("train", "test")[i % 2], f"class{i // 2 % min(CLASSES, clips // 2)}"
        for root in (wavs, others):
            (root / split / label).mkdir(parents=True, exist_ok=True)
        waveform = load_audio(paths[i], RATE) if paths else make_clip(i) / np.float32(32768)
        wav = wavs / split / label / f"{i}.wav"
        soundfile.write(wav, waveform, RATE, "PCM_16")
        if split == "train":
            train.append(wav)
        other = others / split / label / f"{i}{paths[i].suffix if paths else '.flac'}"
        if paths:
            other.symlink_to(paths[i].absolute())
        else:
            soundfile.write(other, soxr.resample(waveform, RATE, 44100), 44100, "PCM_16")
    return {"WAV, 16 kHz": wavs, "as in --source" if paths else "FLAC, 44.1 kHz": others}, train


def check(name: str, features: np.ndarray, expected: np.ndarray, largest: float) -> None:
    """Asserts that two model inputs agree, by the differences of their log-mels."""
    error = 2 * STD * np.abs(features - expected)
    assert error.max() < largest, f"{name} is off by {error.max()}"
    assert error.mean() < 1e-4, f"{name} is off by {error.mean()} on average"
