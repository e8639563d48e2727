"""Times the NumPy and JAX frontends against Hugging Face's extractor and torchaudio.

    python benchmarks/frontend.py [--rounds 12] [--tiny]

Needs torch and transformers (the extra `test`); the torchaudio row needs torchaudio. Computes the
model input of 10 s clips, one at a time and on the device also in a batch, in a process that is
pinned to one core, XLA's threads included. On an accelerator the transfer of the waveforms is
timed; the features stay there.

Each round times a few calls of each frontend in turn. The printed ratio is the median of the
rounds' ratios, so that a temporary slowdown of the machine affects all alike.
"""

import argparse
import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

for library in ("OMP", "OPENBLAS", "MKL"):  # read when NumPy is imported
    os.environ[f"{library}_NUM_THREADS"] = "1"

import jax  # noqa: E402
import numpy as np  # noqa: E402
from common import (  # noqa: E402
    RATE,
    cpu_name,
    hugging_face_extractor,
    make_clip,
    quartiles,
    table_header,
    table_row,
    torchaudio_fbank,
    versions,
)

sys.path.insert(0, str(Path(__file__).parent.parent))

from ast_jax.audio.fbank import fbank  # noqa: E402
from ast_jax.audio.fbank_jax import input_values  # noqa: E402
from ast_jax.audio.feature_extractor import ASTFeatureExtractor, pad_or_cut  # noqa: E402

CALLS = 5  # per round and contender; one for a batch
BATCH = 32
PEER = "Hugging Face's extractor (NumPy)"

# The function to time, its argument and the number of clips in it.
Contender = tuple[Callable[[Any], Any], np.ndarray, int]


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Pins all threads of this process, present and future, to one core."""
    if not hasattr(os, "sched_setaffinity"):
        print("cannot pin a process to a core on this system: XLA uses all cores")
        yield
        return
    cores = os.sched_getaffinity(0)

    def pin(to: set[int]) -> None:
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):  # the thread has ended
                os.sched_setaffinity(int(thread), to)

    pin({max(cores)})
    try:
        yield
    finally:
        pin(cores)


def make_contenders(extractor: ASTFeatureExtractor, clips: np.ndarray) -> dict[str, Contender]:
    """Returns the frontends that can be imported here, by name."""
    compiled = jax.jit(partial(input_values, extractor=extractor))

    def on_device(batch: np.ndarray) -> jax.Array:
        lengths = np.full(len(batch), batch.shape[1], np.int32)
        return jax.block_until_ready(compiled(batch, lengths))

    waveform = clips[0] / np.float32(32768)
    contenders: dict[str, Contender] = {
        PEER: (hugging_face_extractor(), waveform, 1),
        "our extractor (NumPy)": (lambda x: extractor(x, RATE)[0], waveform, 1),
        "our fbank alone (NumPy)": (lambda x: fbank(x, RATE), waveform, 1),
        "the same in float64": (lambda x: fbank(x, RATE, dtype=np.float64), waveform, 1),
    }
    device = f"`fbank_jax` on {jax.devices()[0].device_kind}"
    contenders[f"{device}, batch 1"] = (on_device, clips[:1], 1)
    contenders[f"{device}, batch {len(clips)}"] = (on_device, clips, len(clips))
    if torchaudio := torchaudio_fbank():
        contenders["torchaudio's fbank alone"] = (torchaudio, waveform, 1)
    else:
        print("torchaudio cannot be imported here")
    return contenders


def check(contenders: dict[str, Contender], extractor: ASTFeatureExtractor) -> None:
    """Asserts that all contenders agree on the model input up to float32 rounding."""

    def normalized(log_mel: np.ndarray) -> np.ndarray:
        return extractor.normalize(pad_or_cut(log_mel, extractor.max_length))

    for name, (compute, x, _) in contenders.items():
        waveforms = np.atleast_2d(x / np.float32(32768) if x.dtype == np.int16 else x)
        reference = [normalized(fbank(wave, RATE, dtype=np.float64)) for wave in waveforms]
        features = np.asarray(compute(x))
        if features.shape[-2] < extractor.max_length:
            features = normalized(features)
        error = np.abs(features - np.reshape(reference, features.shape))
        assert error.max() < 2e-3, f"{name} is off by {error.max()}"
        assert error.mean() < 1e-5, f"{name} is off by {error.mean()} on average"


@one_core()
def main() -> None:
    """Checks that all contenders agree, times them and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument(
        "--tiny", action="store_true", help="one round of a few clips, to try the script"
    )
    arguments = parser.parse_args()
    rounds, batch = (1, 2) if arguments.tiny else (arguments.rounds, BATCH)

    import torch

    torch.set_num_threads(1)
    print(f"{cpu_name()}; one core; Python {platform.python_version()}")
    print(versions(["jax", "numpy", "scipy", "torch", "torchaudio", "transformers"]))

    extractor = ASTFeatureExtractor()
    contenders = make_contenders(extractor, np.stack([make_clip(i) for i in range(batch)]))
    check(contenders, extractor)
    times = {name: np.empty(rounds) for name in contenders}
    for i in range(rounds):
        for name, (compute, x, count) in contenders.items():
            compute(x)
            calls = CALLS if count == 1 else 1
            start = time.perf_counter()
            for _ in range(calls):
                compute(x)
            times[name][i] = (time.perf_counter() - start) / calls / count

    print("\n".join(table_header("", "a clip", "speed-up over Hugging Face's (quartiles)")))
    for name, seconds in times.items():
        milliseconds = f"{1e3 * np.median(seconds):.2f} ms"
        print(table_row([name, milliseconds, quartiles(times[PEER] / seconds)]))


if __name__ == "__main__":
    main()
