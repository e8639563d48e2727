"""Times inference against Hugging Face's AST with SDPA, on one GPU or CPU.

    python benchmarks/inference.py [--size base384] [--batches 1 4] [--tiny]
        [--append benchmarks/RESULTS.md]

needs torch and transformers (the extra `test`), and neither TensorFlow nor a sound library. Both
have the same random weights, take the same clips from the host and give the probabilities of
AudioSet's classes back to it; these are compared before anything is timed. --inputs says what a
clip is:

- waveforms, of 16 bits, on a GPU if left out: log-mels are computed on the device, ours by
  `AudioClassifier.probabilities_of_waveforms`, theirs by a Kaldi fbank in PyTorch that this script
  has, for Hugging Face's own knows only the CPU.
- log-mels, on a CPU if left out: the model alone.

Theirs is compiled with its frontend by torch.compile on a GPU, with CUDA graphs (reduce-overhead)
unless told otherwise, and has its weights and activations in --dtype.

Rounds in which both are called once come first, then rounds in which several calls of each
(--calls, 10 on a GPU) are on their way before one waits. A CPU works on one call at a time. Ratios
are medians of the rounds' ratios; `contest.py` says what runs beside what. FLOP and matrix rate are
as in `training.py`.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from common import append, quartiles, table_head, table_row
from contest import (
    Contender,
    Measured,
    alone,
    compiled_if_possible,
    make_parser,
    measure,
    measure_batch,
    peer_label,
    tolerance,
)
from device import default_dtype, describe, jax_peak, torch_peak, torch_precision
from models import forward_flop, make_batch, make_extractor, make_weights, model_fields

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.models.config import ASTConfig

# Of the logits' range.
TOLERANCE = {"float32": 1e-4, "tf32": 5e-3, "bfloat16": 5e-2}
LARGEST = 8.0  # of the logits compared; beyond it float32 probabilities near 1 do not tell them


# ---- in a process of their own


def measure_inference(
    names: tuple[str, ...],
    batch_size: int,
    arguments: argparse.Namespace,
    kind: str,
    expected: np.ndarray | None,
) -> dict[str, Measured]:
    """Checks that both give the same probabilities, and times them in turn.

    Args:
        names: 'ours', 'SDPA' or both.
        batch_size: clips.
        arguments: the command line's.
        kind: 'cuda' or 'cpu'.
        expected: the probabilities, if another process knows them.
    """
    torch_precision(kind)
    dtype = arguments.dtype or default_dtype(kind)
    from_waveforms = takes_waveforms(arguments, kind)
    config, weights, params = make_weights(model_fields(arguments.size, arguments.tiny))
    clips = make_batch(config, batch_size)["waveforms" if from_waveforms else "input_values"]
    bound = tolerance(TOLERANCE, arguments, kind)
    repeats = [1] if calls_of(arguments, kind) == 1 else [1, calls_of(arguments, kind)]

    def make(name: str) -> tuple[Contender, np.ndarray]:
        if name == "ours":
            contender = ours(config.replace(dtype=dtype), params, clips, from_waveforms)
            first = contender.run(1)
        else:
            peer = partial(hugging_face, weights, clips, arguments, kind)
            contender, first = compiled_if_possible(peer, compile_modes(arguments, kind))
        contender.run(repeats[-1])
        return contender, first

    def check(label: str, found: np.ndarray, expected: np.ndarray) -> None:
        with np.errstate(divide="ignore"):  # a probability of 1 is the largest logit's
            found, expected = (
                np.clip(np.log(x / (1 - x)), -LARGEST, LARGEST) for x in (found, expected)
            )
        error = np.abs(found - expected).max() / np.ptp(expected)
        assert error <= bound, f"{label}: logits differ by {error} of their range"

    makers = {name: partial(make, name) for name in names}
    return measure(makers, labels(arguments, kind), check, repeats, arguments.rounds, expected)


def ours(
    config: ASTConfig, params: dict[str, Any], clips: np.ndarray, from_waveforms: bool
) -> Contender:
    """The package's classifier."""
    from ast_jax.checkpoint.format import Checkpoint
    from ast_jax.inference.classifier import AudioClassifier

    peak = jax_peak()
    config = config.replace(problem_type="multi_label_classification")
    classifier = AudioClassifier(Checkpoint(config, make_extractor(config), params))
    classify = classifier.probabilities
    if from_waveforms:
        classify = classifier.probabilities_of_waveforms
    return Contender(lambda calls: last([classify(clips) for _ in range(calls)]), "ours", peak)


def last(results: list[Any]) -> np.ndarray:
    """All on the host; the last is returned."""
    return [np.asarray(result, np.float32) for result in results][-1]


def hugging_face(
    weights: dict[str, Any], clips: np.ndarray, arguments: argparse.Namespace, kind: str, mode: str
) -> Contender:
    """Hugging Face's model in PyTorch, with an fbank before it if it takes waveforms."""
    import torch
    import transformers

    peak = torch_peak(kind)
    fields = model_fields(arguments.size, arguments.tiny)
    config = transformers.ASTConfig(**fields, num_labels=527, attn_implementation="sdpa")
    model = transformers.ASTForAudioClassification(config).eval()
    model.load_state_dict(weights)
    dtype = getattr(torch, arguments.dtype or default_dtype(kind))
    model = model.to(kind, dtype)
    frontend = None
    if takes_waveforms(arguments, kind):
        frontend = torch_frontend(make_extractor(ASTConfig().replace(**fields)), kind)

    def classify(batch: Any) -> Any:
        inputs = frontend(batch) if frontend else batch
        return model(inputs.to(dtype)).logits.float().sigmoid()

    if mode != "none":
        classify = torch.compile(classify, mode=mode, dynamic=False)

    def put(clips: np.ndarray) -> Any:
        batch = torch.from_numpy(clips)
        # From pinned memory: from any other PyTorch would wait for all work before.
        return batch.pin_memory().to(kind, non_blocking=True) if kind == "cuda" else batch

    @torch.inference_mode()
    def run(calls: int) -> np.ndarray:
        # reduce-overhead writes each call's result where the last one's was.
        results = [classify(put(clips)).clone() for _ in range(calls)]
        return last([result.cpu() for result in results])

    return Contender(run, peer_label("SDPA", arguments.dtype or default_dtype(kind), mode), peak)


def torch_frontend(extractor: ASTFeatureExtractor, kind: str) -> Callable:
    """int16 waveforms (batch, samples) → the model's input, as Kaldi's fbank in PyTorch."""
    import torch

    from ast_jax.audio.fbank import LOG_FLOOR, frame_sizes, mel_bank, next_power_of_two, window

    rate = extractor.sampling_rate
    size, shift = frame_sizes(rate, frame_length=25.0, frame_shift=10.0)
    fft_size = next_power_of_two(size)
    filters = mel_bank(extractor.num_mel_bins, fft_size, rate, 20.0, 0.0).astype(np.float32)
    filters = torch.from_numpy(filters.T.copy()).to(kind)
    taper = torch.from_numpy(window("hanning", size).astype(np.float32)).to(kind)

    def frontend(waveforms: Any) -> Any:
        frames = (waveforms / 2.0**15).unfold(1, size, shift)
        frames = frames - frames.mean(2, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], 2)
        spectrum = torch.fft.rfft((frames - 0.97 * before) * taper, fft_size)
        power = spectrum.real.square() + spectrum.imag.square()
        log_mel = (power[..., : filters.shape[0]] @ filters).clamp(min=LOG_FLOOR).log()
        missing = extractor.max_length - log_mel.shape[1]
        padded = torch.nn.functional.pad(log_mel, (0, 0, 0, missing))
        return (padded - extractor.mean) / (2 * extractor.std)

    return frontend


# ---- what the command line means


def takes_waveforms(arguments: argparse.Namespace, kind: str) -> bool:
    """Whether a clip is a waveform."""
    return (arguments.inputs or ("waveforms" if kind == "cuda" else "log-mels")) == "waveforms"


def compile_modes(arguments: argparse.Namespace, kind: str) -> list[str]:
    """The modes of torch.compile to try, one after another.

    On a GPU with CUDA graphs first, as XLA's programs are.
    """
    if arguments.compile:
        return list(dict.fromkeys([arguments.compile, "none"]))
    return ["reduce-overhead", "default", "none"] if kind == "cuda" else ["none"]


def calls_of(arguments: argparse.Namespace, kind: str) -> int:
    """How many calls are on their way before one waits."""
    if arguments.calls is not None:
        return arguments.calls
    return 10 if kind == "cuda" else 1


def labels(arguments: argparse.Namespace, kind: str) -> dict[str, str]:
    """What the table calls both."""
    mode = compile_modes(arguments, kind)[0]
    return {
        "ours": "ours",
        "SDPA": peer_label("SDPA", arguments.dtype or default_dtype(kind), mode),
    }


# ---- in the first process


HEADER = table_head(
    *("batch", "", "one call", "time / ours (quartiles)", "clips/s", "TFLOP/s"),
    *("of the matrix rate", "time / ours (quartiles)", "peak memory"),
)


def table_rows(batch_size: int, found: dict[str, Measured], flop: int, rate: float) -> list[str]:
    """The table's lines for a batch size."""
    rows, base = [], found["ours"].seconds
    for name, one in found.items():
        if one.seconds is None:
            rows.append(table_row([str(batch_size), one.label, one.remark, *[""] * 6]))
            continue
        remark = f", {one.remark}" if one.remark else ""
        ratios = ["1", "1"] if name == "ours" else ["–", "–"]
        if base is not None and name != "ours":
            ratios = [quartiles(one.seconds[i] / base[i]) for i in (0, -1)]
        clips = batch_size / np.median(one.seconds[-1])
        cells = [
            in_words(float(np.median(one.seconds[0]))),
            ratios[0],
            f"{clips:.4g}",
            f"{clips * flop / 1e12:.3g}",
            f"{clips * flop / rate:.0%}",
            ratios[1],
            f"{one.peak / 2**30:.2f} GiB" if one.peak else "–",
        ]
        rows.append(table_row([str(batch_size), one.label + remark, *cells]))
    return rows


def in_words(seconds: float) -> str:
    """A table's cell."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__, ["bfloat16", "float32"])
    parser.add_argument("--batches", type=int, nargs="+", help="clips; 1 4 if left out")
    parser.add_argument("--inputs", choices=["waveforms", "log-mels"])
    parser.add_argument("--calls", type=int, help="before one waits; 10 on a GPU, 1 on a CPU")
    arguments = parser.parse_args(argv)
    if arguments.calls is not None and arguments.calls < 1:
        parser.error("give --calls of 1 or more")
    arguments.batches = arguments.batches or ([2] if arguments.tiny else [1, 4])
    return arguments


def main(argv: list[str]) -> None:
    """Checks that both agree, times them and prints a table."""
    arguments = parse(argv)
    device = alone(describe, arguments.dtype, arguments.tiny)
    dtype = arguments.dtype or default_dtype(device.kind)
    config = ASTConfig().replace(**model_fields(arguments.size, arguments.tiny))
    flop = forward_flop(config)
    inputs = "waveforms" if takes_waveforms(arguments, device.kind) else "log-mels"
    said = (
        f"{device.name}; a matrix rate of {device.rate / 1e12:.4g} TFLOP/s, {flop / 1e12:.4g} "
        f"TFLOP a clip in the paper's model"
    )
    print(f"{said}; {dtype}, from {inputs}\n")
    size = "a tiny model" if arguments.tiny else arguments.size
    title = f"Inference: {size}, {config.max_length} frames, {dtype}, from {inputs}"
    named, lines = labels(arguments, device.kind), list(HEADER)
    print(*lines, sep="\n", flush=True)
    failed = False
    try:
        for batch_size in arguments.batches:
            found = measure_batch(measure_inference, named, batch_size, arguments, device.kind)
            rows = table_rows(batch_size, found, flop, device.rate)
            print(*rows, sep="\n", flush=True)
            lines += rows
            failed |= any(one.remark.startswith("failed") for one in found.values())
    finally:  # what was measured before something failed, or was interrupted, is kept
        if arguments.append and len(lines) > len(HEADER):
            command = ["python", "benchmarks/inference.py", *argv]
            append(arguments.append, title, command, said, lines)
    if failed:
        sys.exit("not all of it ran; what failed is told above")


if __name__ == "__main__":
    main(sys.argv[1:])
