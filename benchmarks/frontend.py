"""Times the NumPy frontend against Hugging Face's extractor and torchaudio's Kaldi fbank.

    python benchmarks/frontend.py

needs torch and transformers (the extra `test`), and torchaudio for its rows. All run on one
thread in one process. A round times a few calls of each in turn, as a pipeline calls its
frontend again and again; the ratio is the median of the rounds' ratios, so that a machine that
slows down for a while slows all.
"""

import argparse
import platform
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import scipy
import threadpoolctl
from common import RATE, cpu, hugging_face, torchaudio_fbank, versions

sys.path.insert(0, str(Path(__file__).parent.parent))

from ast_jax.audio.fbank import _rfft, fbank
from ast_jax.audio.feature_extractor import ASTFeatureExtractor, pad_or_cut

CALLS = 5  # of each in a round


def clip() -> np.ndarray:
    """Ten seconds like a recording: noise of 1/f spectrum, whose loudness comes and goes."""
    rng = np.random.default_rng(0)
    samples = 10 * RATE
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    noise = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)))
    loudness = 0.1 + np.sin(2 * np.pi * 0.7 * np.arange(samples) / RATE) ** 2
    waveform = noise / np.abs(noise).max() * loudness / 1.1
    return waveform.astype(np.float32)


def fbank_by_scipy(waveform: np.ndarray) -> np.ndarray:
    """Our fbank as it is without the extra `mkl`."""
    with mock.patch("ast_jax.audio.fbank._rfft", return_value=scipy.fft.rfft):
        return fbank(waveform, RATE)


def main() -> None:
    """Checks that all agree, times them and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds

    import torch

    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)
    print(f"{cpu()}; one thread; Python {platform.python_version()}")
    print(versions(["numpy", "scipy", "mkl_fft", "torch", "torchaudio", "transformers"]))

    waveform = clip()
    ours = ASTFeatureExtractor()
    contenders = {
        "Hugging Face's extractor (NumPy)": hugging_face(),
        "our extractor": lambda x: ours(x, RATE)[0],
        "our fbank alone": lambda x: fbank(x, RATE),
        "our fbank alone, float64": lambda x: fbank(x, RATE, dtype=np.float64),
    }
    if _rfft() is not scipy.fft.rfft:  # the extra `mkl` is there, which ours then take
        contenders["our fbank alone, without `mkl`"] = fbank_by_scipy
    if torchaudios := torchaudio_fbank():
        contenders["torchaudio's fbank alone"] = torchaudios
    else:
        print("torchaudio: does not import here")

    # Each as the model's input; the tolerance is float32's rounding, over 2 · std.
    reference = ours.normalize(pad_or_cut(fbank(waveform, dtype=np.float64), ours.max_length))
    for name, compute in contenders.items():
        features = compute(waveform)
        if len(features) < ours.max_length:
            features = ours.normalize(pad_or_cut(features, ours.max_length))
        error = np.abs(features - reference)
        assert error.max() < 2e-3, f"{name} is off by {error.max()}"
        assert error.mean() < 1e-5, f"{name} is off by {error.mean()} on average"

    times = {name: np.empty(rounds) for name in contenders}
    for i in range(rounds):
        for name, compute in contenders.items():
            compute(waveform)
            start = time.perf_counter()
            for _ in range(CALLS):
                compute(waveform)
            times[name][i] = (time.perf_counter() - start) / CALLS

    peers = times["Hugging Face's extractor (NumPy)"]
    print(f"\n{'one 10 s clip':34} {'median':>9} {'speed-up (quartiles)':>24}")
    for name, seconds in times.items():
        low, middle, high = np.percentile(peers / seconds, [25, 50, 75])
        print(
            f"{name:34} {1e3 * np.median(seconds):6.2f} ms {middle:9.2f}x ({low:.2f} to {high:.2f})"
        )


if __name__ == "__main__":
    main()
