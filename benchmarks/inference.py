"""Times inference against Hugging Face's AST with SDPA, on one GPU or CPU.

    python benchmarks/inference.py [--size base384] [--batches 1 4] [--tiny]
        [--append benchmarks/RESULTS.md]

Needs torch and transformers (the extra `test`), but neither TensorFlow nor audio libraries. Both
contenders have the same random weights, take the same clips from the host and return probabilities
of AudioSet's classes to it. The first results must agree. --inputs selects the kind of clips:

- waveforms (int16, the default on a GPU): log-mels are computed on the device, ours by
  `AudioClassifier.probabilities_of_waveforms`, theirs by the Kaldi fbank in PyTorch below, as
  Hugging Face's extractor runs only on the CPU.
- log-mels (the default on a CPU): the model alone.

Theirs is compiled with its frontend by torch.compile on a GPU, with CUDA graphs (reduce-overhead)
unless told otherwise, and has its weights and activations in --dtype.

The first rounds time single calls, further rounds several calls in flight (--calls; 10 on a GPU,
none on a CPU, which runs one call at a time). Ratios are medians of the rounds' ratios.
`contest.py` describes the processes. FLOP and matrix rate are as in `training.py`.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from common import quartiles, table_header, table_row
from contest import (
    Contender,
    Measurement,
    compiled_if_possible,
    make_parser,
    measure,
    measure_batch,
    peer_label,
    print_table,
    run_in_process,
    tolerance,
)
from device import default_dtype, describe, jax_peak, torch_peak, torch_precision
from models import forward_flop, make_batch, make_extractor, make_weights, model_fields

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.models.config import ASTConfig

# Relative to the range of the logits.
TOLERANCE = {"float32": 1e-4, "tf32": 5e-3, "bfloat16": 5e-2}
LARGEST = 8.0  # compared logit; float32 probabilities near 1 do not resolve larger ones


# ---- in a new process


def measure_inference(
    names: tuple[str, ...],
    batch_size: int,
    arguments: argparse.Namespace,
    kind: str,
    expected: np.ndarray | None,
) -> dict[str, Measurement]:
    """Checks that both return the same probabilities, and times them in turn.

    Args:
        names: 'ours', 'SDPA' or both.
        batch_size: in clips.
        arguments: of the command line.
        kind: 'cuda' or 'cpu'.
        expected: the probabilities, if another process computed them.
    """
    torch_precision(kind)
    dtype = compute_dtype(arguments, kind)
    from_waveforms = takes_waveforms(arguments, kind)
    config, weights, params = make_weights(model_fields(arguments.size, arguments.tiny))
    clips = make_batch(config, batch_size)["waveforms" if from_waveforms else "input_values"]
    bound = tolerance(TOLERANCE, arguments, kind)
    repeats = list(dict.fromkeys([1, calls_in_flight(arguments, kind)]))

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
        with np.errstate(divide="ignore"):  # a probability of 1 gives an infinite logit
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
    """Returns the package's classifier."""
    from ast_jax.checkpoint.format import Checkpoint
    from ast_jax.inference.classifier import AudioClassifier

    peak = jax_peak()
    config = config.replace(problem_type="multi_label_classification")
    classifier = AudioClassifier(Checkpoint(config, make_extractor(config), params))
    classify = classifier.probabilities
    if from_waveforms:
        classify = classifier.probabilities_of_waveforms
    return Contender(lambda calls: fetch_all([classify(clips) for _ in range(calls)]), "ours", peak)


def fetch_all(results: list[Any]) -> np.ndarray:
    """Copies all results to the host and returns the last."""
    return [np.asarray(result, np.float32) for result in results][-1]


def hugging_face(
    weights: dict[str, Any], clips: np.ndarray, arguments: argparse.Namespace, kind: str, mode: str
) -> Contender:
    """Returns Hugging Face's model in PyTorch, with the fbank below if it takes waveforms."""
    import torch
    import transformers

    peak = torch_peak(kind)
    fields = model_fields(arguments.size, arguments.tiny)
    config = transformers.ASTConfig(**fields, num_labels=527, attn_implementation="sdpa")
    model = transformers.ASTForAudioClassification(config).eval()
    model.load_state_dict(weights)
    dtype = getattr(torch, compute_dtype(arguments, kind))
    model = model.to(kind, dtype)
    frontend = None
    if takes_waveforms(arguments, kind):
        frontend = torch_frontend(make_extractor(ASTConfig().replace(**fields)), kind)

    def classify(batch: Any) -> Any:
        inputs = frontend(batch) if frontend else batch
        return model(inputs.to(dtype)).logits.float().sigmoid()

    if mode != "none":
        classify = torch.compile(classify, mode=mode, dynamic=False)

    def to_device(clips: np.ndarray) -> Any:
        batch = torch.from_numpy(clips)
        # From pinned memory, as a copy from pageable memory waits for the work before it.
        return batch.pin_memory().to(kind, non_blocking=True) if kind == "cuda" else batch

    @torch.inference_mode()
    def run(calls: int) -> np.ndarray:
        # With reduce-overhead each call overwrites the result of the previous one.
        results = [classify(to_device(clips)).clone() for _ in range(calls)]
        return fetch_all([result.cpu() for result in results])

    return Contender(run, peer_label("SDPA", compute_dtype(arguments, kind), mode), peak)


def torch_frontend(extractor: ASTFeatureExtractor, kind: str) -> Callable:
    """Returns Kaldi's fbank in PyTorch: int16 waveforms (batch, samples) → model input."""
    import torch

    from ast_jax.audio.kaldi import LOG_FLOOR, frame_sizes, mel_bank, next_power_of_two, window

    rate = extractor.sampling_rate
    size, shift = frame_sizes(rate)
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


# ---- values that depend on the command line


def takes_waveforms(arguments: argparse.Namespace, kind: str) -> bool:
    """Returns whether clips are waveforms."""
    return (arguments.inputs or ("waveforms" if kind == "cuda" else "log-mels")) == "waveforms"


def compute_dtype(arguments: argparse.Namespace, kind: str) -> str:
    """Returns the dtype of both models."""
    return arguments.dtype or default_dtype(kind)


def compile_modes(arguments: argparse.Namespace, kind: str) -> list[str]:
    """Returns the modes of torch.compile to try, in order.

    CUDA graphs (reduce-overhead) come first on a GPU, as XLA uses them too.
    """
    if arguments.compile:
        return list(dict.fromkeys([arguments.compile, "none"]))
    return ["reduce-overhead", "default", "none"] if kind == "cuda" else ["none"]


def calls_in_flight(arguments: argparse.Namespace, kind: str) -> int:
    """Returns how many calls are dispatched before the results are fetched."""
    if arguments.calls is not None:
        return arguments.calls
    return 10 if kind == "cuda" else 1


def labels(arguments: argparse.Namespace, kind: str) -> dict[str, str]:
    """Returns the labels by name."""
    mode = compile_modes(arguments, kind)[0]
    return {"ours": "ours", "SDPA": peer_label("SDPA", compute_dtype(arguments, kind), mode)}


# ---- in the main process


HEADER = table_header(
    *("batch", "", "one call", "time / ours (quartiles)", "clips/s", "TFLOP/s"),
    *("of the matrix rate", "time / ours (quartiles)", "peak memory"),
)


def table_rows(batch_size: int, found: dict[str, Measurement], flop: int, rate: float) -> list[str]:
    """Returns the table's rows for a batch size."""
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
            format_seconds(float(np.median(one.seconds[0]))),
            ratios[0],
            f"{clips:.4g}",
            f"{clips * flop / 1e12:.3g}",
            f"{clips * flop / rate:.0%}",
            ratios[1],
            f"{one.peak / 2**30:.2f} GiB" if one.peak else "–",
        ]
        rows.append(table_row([str(batch_size), one.label + remark, *cells]))
    return rows


def format_seconds(seconds: float) -> str:
    """Returns a time in seconds or milliseconds."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses and checks the command line."""
    parser = make_parser(__doc__, ["bfloat16", "float32"])
    parser.add_argument("--batches", type=int, nargs="+", help="in clips; default: 1 4")
    parser.add_argument("--inputs", choices=["waveforms", "log-mels"])
    parser.add_argument("--calls", type=int, help="in flight; default: 10 on a GPU, 1 on a CPU")
    arguments = parser.parse_args(argv)
    if arguments.calls is not None and arguments.calls < 1:
        parser.error("give --calls of 1 or more")
    arguments.batches = arguments.batches or ([2] if arguments.tiny else [1, 4])
    return arguments


def main(argv: list[str]) -> None:
    """Checks that both agree, times them and prints a table."""
    arguments = parse(argv)
    device = run_in_process(describe, arguments.dtype, arguments.tiny)
    dtype = compute_dtype(arguments, device.kind)
    config = ASTConfig().replace(**model_fields(arguments.size, arguments.tiny))
    flop = forward_flop(config)
    inputs = "waveforms" if takes_waveforms(arguments, device.kind) else "log-mels"
    setup = (
        f"{device.name}; a matrix rate of {device.rate / 1e12:.4g} TFLOP/s, {flop / 1e12:.4g} "
        f"TFLOP per clip in the paper's model"
    )
    print(f"{setup}; {dtype}, from {inputs}\n")
    size = "a tiny model" if arguments.tiny else arguments.size
    title = f"Inference: {size}, {config.max_length} frames, {dtype}, from {inputs}"
    command, names = ["python", "benchmarks/inference.py", *argv], labels(arguments, device.kind)

    def measurements() -> Iterator[tuple[list[str], Iterable[Measurement]]]:
        for batch_size in arguments.batches:
            found = measure_batch(measure_inference, names, batch_size, arguments, device.kind)
            yield table_rows(batch_size, found, flop, device.rate), found.values()

    print_table(command, title, setup, HEADER, measurements(), arguments.append)


if __name__ == "__main__":
    main(sys.argv[1:])
