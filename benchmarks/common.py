"""Helpers of several benchmarks: peer frontends, test clips, the machine, Markdown tables."""

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
SECONDS = 10  # length of a clip
Compute = Callable[[np.ndarray], np.ndarray]  # a waveform (samples,) → log-mel or model input


def torchaudio_fbank() -> Compute | None:
    """Returns torchaudio's Kaldi fbank as the original calls it, or None without torchaudio."""
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


def hugging_face_extractor(max_length: int = 1024) -> Compute:
    """Returns Hugging Face's extractor with NumPy features, its fallback without torchaudio."""
    from transformers.models.audio_spectrogram_transformer import (
        feature_extraction_audio_spectrogram_transformer as module,
    )

    module.is_speech_available = lambda: False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one mel filter is empty, as in ours and torchaudio's
        extractor = module.ASTFeatureExtractor(max_length=max_length)

    def compute(waveform: np.ndarray) -> np.ndarray:
        return extractor(waveform, sampling_rate=RATE, return_tensors="np")["input_values"][0]

    return compute


def make_clip(number: int) -> np.ndarray:
    """Returns 10 s of int16 audio at 16 kHz: three tones of varying loudness, and noise."""
    rng = np.random.default_rng(number)
    times = np.arange(SECONDS * RATE) / RATE
    waveform = 0.02 * rng.standard_normal(len(times))
    for frequency in 100 * 2 ** rng.uniform(0, 6, 3):
        loudness = np.interp(times, np.arange(SECONDS + 1), rng.standard_normal(SECONDS + 1))
        waveform += 0.1 * loudness * np.sin(2 * np.pi * frequency * times)
    return (32767 * np.clip(waveform, -1, 1)).astype(np.int16)


def cpu_name() -> str:
    """Returns the model name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if "model name" in line), "unknown")


def table_header(*cells: str) -> list[str]:
    """Returns the header row and the delimiter row of a Markdown table."""
    return [table_row(cells), table_row(["---"] * len(cells))]


def table_row(cells: Iterable[str]) -> str:
    """Returns a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def quartiles(values: np.ndarray, unit: str = "") -> str:
    """Formats the median with its unit, and the quartiles in brackets."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return f"{median:.2f}{unit} ({low:.2f} to {high:.2f})"


def append_results(
    path: Path, title: str, command: list[str], setup: str, lines: list[str]
) -> None:
    """Appends a section with a table to a Markdown file.

    Args:
        path: the file.
        title: the heading of the section.
        command: the command line. The section shows it without `--append` and its value.
        setup: device and versions.
        lines: of the table.
    """
    arguments = iter(command)
    shown = []
    for argument in arguments:
        if argument == "--append":
            next(arguments)
        elif not argument.startswith("--append="):
            shown.append(argument)
    date = datetime.date.today()
    text = [f"\n## {title}\n", f"    {shlex.join(shown)}\n", f"{setup}; {date}.\n"]
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join([*text, *lines]) + "\n")


def versions(packages: list[str]) -> str:
    """Returns the packages' names and installed versions, separated by commas."""
    return ", ".join(f"{package} {_version(package)}" for package in packages)


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return "not installed"
