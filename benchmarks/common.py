"""What several benchmarks measure against, and what they say of the machine."""

import contextlib
import datetime
import platform
import shlex
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

RATE = 16000
Compute = Callable[[np.ndarray], np.ndarray]  # a waveform (samples,) → log-mel or model input


def torchaudio_fbank() -> Compute | None:
    """The Kaldi fbank of torchaudio as the original calls it, or None without torchaudio."""
    import torch

    try:
        from torchaudio.compliance import kaldi
    except (ImportError, OSError, RuntimeError):
        return None

    def compute(waveform: np.ndarray) -> np.ndarray:
        return kaldi.fbank(
            torch.from_numpy(waveform)[None],
            htk_compat=True,
            sample_frequency=RATE,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=128,
            dither=0.0,
            frame_shift=10,
        ).numpy()

    return compute


def hugging_face() -> Compute:
    """Hugging Face's extractor with its NumPy features, which it has without torchaudio."""
    from transformers.models.audio_spectrogram_transformer import (
        feature_extraction_audio_spectrogram_transformer as module,
    )

    module.is_speech_available = lambda: False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one mel filter is empty, in ours and torchaudio's too
        extractor = module.ASTFeatureExtractor()

    def compute(waveform: np.ndarray) -> np.ndarray:
        return extractor(waveform, sampling_rate=RATE, return_tensors="np")["input_values"][0]

    return compute


def cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if "model name" in line), "unknown")


def table_head(*cells: str) -> list[str]:
    """The first two lines of a table in Markdown."""
    return [table_row(cells), table_row(["---"] * len(cells))]


def table_row(cells: Iterable[str]) -> str:
    """A line of it."""
    return f"| {' | '.join(cells)} |"


def quartiles(ratios: np.ndarray) -> str:
    """A table's cell: the median and both quartiles."""
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def append(path: Path, title: str, command: list[str], said: str, lines: list[str]) -> None:
    """Adds a section with the table to a file of results.

    `command` is the whole command line; the file's own name, which nobody else has, is left out.
    """
    words = iter(command)
    kept = []
    for word in words:
        if word == "--append":
            next(words)
        elif not word.startswith("--append="):
            kept.append(word)
    text = [f"\n## {title}\n", f"    {shlex.join(kept)}\n", f"{said}; {datetime.date.today()}.\n"]
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join([*text, *lines]) + "\n")


def versions(packages: list[str]) -> str:
    """The versions that are installed."""
    return ", ".join(f"{package} {_version(package)}" for package in packages)


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return "not installed"
