"""Times the training step against Hugging Face's AST in PyTorch, on one GPU or CPU.

    python benchmarks/training.py [--size base384] [--batches 1 4 16] [--tiny]
        [--append benchmarks/RESULTS.md]

Needs torch and transformers (the extra `test`), but neither TensorFlow nor audio libraries. All
contenders start from the same random weights and use the same batch, already on the device. Their
first losses must agree. Contenders besides our step:

- from waveforms: our step with the frontend on the device, from int16. The difference is the cost
  of the frontend.
- SDPA: fused attention, autocast to bfloat16, fused Adam, and torch.compile on a GPU.
- eager: attention as in the original; on a GPU with its fp16 autocast and GradScaler.

--dtype float32 disables autocast, and so does a CPU for eager.

Each round times a few steps of each contender in turn, until the last one is done. Ratios are
medians of the rounds' ratios. `contest.py` describes the processes.

FLOP are three times those of the matrix products in the forward pass of the paper's model. They
exclude rematerialization, and include what our last layer leaves out. The matrix rate is that of
the faster of JAX and PyTorch for one large product in --dtype.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
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
from device import (
    default_dtype,
    describe,
    jax_peak,
    torch_peak,
    torch_precision,
    wait_for_torch,
)
from models import make_batch, make_extractor, make_weights, model_fields, training_flop

from ast_jax.models.config import ASTConfig

# The one that needs the most memory is last.
NAMES = ("ours", "from waveforms", "SDPA", "eager")
LEARNING_RATE = 1e-5
WARM_UP = 2  # steps after the first
# Relative, for losses.
TOLERANCE = {"float32": 1e-4, "tf32": 1e-3, "bfloat16": 2e-2}


# ---- in a new process


def measure_training(
    names: tuple[str, ...],
    batch_size: int,
    arguments: argparse.Namespace,
    kind: str,
    expected: float | None,
) -> dict[str, Measurement]:
    """Checks that the contenders' first losses agree, and times their steps in turn.

    Args:
        names: of contenders in `NAMES`.
        batch_size: in clips.
        arguments: of the command line.
        kind: 'cuda' or 'cpu'.
        expected: the first loss, if another process computed it.
    """
    torch_precision(kind)
    dtype = arguments.dtype or default_dtype(kind)
    config, weights, params = make_weights(model_fields(arguments.size, arguments.tiny))
    batch = make_batch(config, batch_size)
    bound = tolerance(TOLERANCE, arguments, kind)

    def make(name: str) -> tuple[Contender, float]:
        if name in ("SDPA", "eager"):
            peer = partial(hugging_face, name, weights, batch, arguments, kind)
            mode = compile_mode(name, arguments, kind)
            modes = [mode, "none"] if arguments.fall_back else [mode]
            contender, loss = compiled_if_possible(peer, modes)
        else:
            contender = ours(name, config.replace(dtype=dtype), params, batch, arguments.remat)
            loss = contender.run(1)
        contender.run(WARM_UP)
        return contender, loss

    def check(label: str, loss: float, expected: float) -> None:
        assert abs(loss - expected) <= bound * expected, (
            f"{label}: the first loss is {loss}, not {expected}"
        )

    makers = {name: partial(make, name) for name in names}
    repeats, rounds = [arguments.steps], arguments.rounds
    return measure(makers, labels(arguments, kind), check, repeats, rounds, expected)


def ours(
    name: str, config: ASTConfig, params: dict[str, Any], batch: dict[str, np.ndarray], remat: bool
) -> Contender:
    """Returns the package's training step."""
    import jax

    from ast_jax.config import OptimizerConfig
    from ast_jax.losses import binary_cross_entropy
    from ast_jax.models.ast import graphdef
    from ast_jax.models.attention import resolve_attn_implementation
    from ast_jax.sharding import REPLICATED, SPLIT, DataParallel
    from ast_jax.training.optimizer import make_optimizer, make_schedule
    from ast_jax.training.step import StepSpec, init_state, train_step

    peak = jax_peak()
    inputs = ("waveforms", "lengths") if name == "from waveforms" else ("input_values",)
    settings = OptimizerConfig(learning_rate=LEARNING_RATE)
    parallel = DataParallel(devices=jax.devices()[:1])
    spec = StepSpec(
        graphdef(config, resolve_attn_implementation(config, parallel.devices)),
        make_extractor(config),
        binary_cross_entropy,
        make_optimizer(settings),
        make_schedule(settings, 1, 1),
        jax.random.key(0),
        remat="everything" if remat else "norms_and_activations",
    )
    take_step = parallel.map(partial(train_step, spec), (REPLICATED, SPLIT), donate=(0,))
    batch = parallel.shard_batch({key: batch[key] for key in (*inputs, "targets")})
    state = parallel.device_put(init_state(params, spec.optimizer, ema=False, average=False))

    def run(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, metrics = take_step(state, batch)
        jax.block_until_ready(state)
        return float(metrics.loss)

    return Contender(run, our_label(name, remat), peak)


def hugging_face(
    name: str,
    weights: dict[str, Any],
    batch: dict[str, np.ndarray],
    arguments: argparse.Namespace,
    kind: str,
    mode: str,
) -> Contender:
    """Returns a training step of Hugging Face's model with the original's loss and Adam."""
    import torch
    import transformers

    peak = torch_peak(kind)
    fused = name == "SDPA"
    half = half_precision(name, arguments, kind)
    config = transformers.ASTConfig(
        **model_fields(arguments.size, arguments.tiny),
        num_labels=527,
        attn_implementation="sdpa" if fused else "eager",
    )
    model = transformers.ASTForAudioClassification(config)
    model.load_state_dict(weights)
    model = model.to(kind).train()
    forward = model if mode == "none" else torch.compile(model, mode=mode, dynamic=False)
    optimizer = torch.optim.Adam(
        model.parameters(),
        LEARNING_RATE,
        betas=(0.95, 0.999),
        weight_decay=5e-7,
        fused=True if fused else None,
    )
    scaler = torch.amp.GradScaler(kind, enabled=half == "float16")
    inputs, targets = (torch.from_numpy(batch[key]).to(kind) for key in ("input_values", "targets"))
    cast_to = getattr(torch, half) if half else None
    loss_fn = torch.nn.BCEWithLogitsLoss()

    def run(steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)  # frees memory before the forward pass
            with torch.autocast(kind, cast_to, enabled=half is not None):
                loss = loss_fn(forward(inputs).logits, targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        wait_for_torch(kind)
        return loss.item()

    return Contender(run, peer_label(name, half or "float32", mode), peak)


# ---- values that depend on the command line


def half_precision(name: str, arguments: argparse.Namespace, kind: str) -> str | None:
    """Returns the dtype of a peer's autocast, or None without autocast."""
    if (arguments.dtype or default_dtype(kind)) == "float32":
        return None
    if name == "SDPA":
        return "bfloat16"
    return "float16" if kind == "cuda" else None


def compile_mode(name: str, arguments: argparse.Namespace, kind: str) -> str:
    """Returns a peer's mode of torch.compile, or 'none'."""
    if name != "SDPA":
        return "none"
    return arguments.compile or ("default" if kind == "cuda" else "none")


def labels(arguments: argparse.Namespace, kind: str) -> dict[str, str]:
    """Returns the contenders' labels by name."""
    found = {name: our_label(name, arguments.remat) for name in NAMES[:2]}
    for name in NAMES[2:]:
        dtype = half_precision(name, arguments, kind) or "float32"
        found[name] = peer_label(name, dtype, compile_mode(name, arguments, kind))
    return found


def our_label(name: str, remat: bool) -> str:
    """Returns the label of one of our contenders."""
    return ("ours" if name == "ours" else f"ours, {name}") + (", remat" if remat else "")


# ---- in the main process


HEADER = table_header(
    *("batch", "", "clips/s", "TFLOP/s", "of the matrix rate", "peak memory"),
    "time / ours (quartiles)",
)


def table_rows(batch_size: int, found: dict[str, Measurement], flop: int, rate: float) -> list[str]:
    """Returns the table's rows for a batch size."""
    rows = []
    for name, one in found.items():
        base = found["ours"].seconds
        remark = f", {one.remark}" if one.remark and one.seconds is not None else ""
        start = [str(batch_size), one.label + remark]
        if one.seconds is None:
            rows.append(table_row([*start, one.remark, *[""] * 4]))
            continue
        clips = batch_size / np.median(one.seconds)
        memory = f"{one.peak / 2**30:.2f} GiB" if one.peak else "–"
        ratio = "1" if name == "ours" else "–"
        if base is not None and name != "ours":
            ratio = quartiles(one.seconds / base)
        work = [f"{clips:.4g}", f"{clips * flop / 1e12:.3g}", f"{clips * flop / rate:.0%}"]
        rows.append(table_row([*start, *work, memory, ratio]))
    return rows


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = make_parser(__doc__, ["bfloat16", "float32"])
    parser.add_argument("--batches", type=int, nargs="+", help="in clips; default: 1 4 16")
    parser.add_argument("--steps", type=int, default=10, help="per round")
    parser.add_argument("--remat", action="store_true", help="ours rematerializes whole layers")
    parser.set_defaults(fall_back=True)
    arguments = parser.parse_args(argv)
    arguments.batches = arguments.batches or ([2] if arguments.tiny else [1, 4, 16])
    return arguments


def main(argv: list[str]) -> None:
    """Checks that all contenders agree, times them and prints a table."""
    arguments = parse(argv)
    device = run_in_process(describe, arguments.dtype, arguments.tiny)
    dtype = arguments.dtype or default_dtype(device.kind)
    config = ASTConfig().replace(**model_fields(arguments.size, arguments.tiny))
    flop = training_flop(config)
    setup = (
        f"{device.name}; a matrix rate of {device.rate / 1e12:.4g} TFLOP/s, {flop / 1e12:.4g} "
        f"TFLOP per clip in the paper's model"
    )
    print(f"{setup}; {dtype}\n")
    size = "a tiny model" if arguments.tiny else arguments.size
    title = f"Training step: {size}, {config.max_length} frames, {dtype}"
    command, names = ["python", "benchmarks/training.py", *argv], labels(arguments, device.kind)

    def measurements() -> Iterator[tuple[list[str], Iterable[Measurement]]]:
        for batch_size in arguments.batches:
            found = measure_batch(measure_training, names, batch_size, arguments, device.kind)
            yield table_rows(batch_size, found, flop, device.rate), found.values()

    print_table(command, title, setup, HEADER, measurements(), arguments.append)


if __name__ == "__main__":
    main(sys.argv[1:])
