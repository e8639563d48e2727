"""Times the training step beside Hugging Face's AST in PyTorch, on one GPU or CPU.

    python benchmarks/training.py [--size base384] [--batches 1 4 16] [--tiny]
        [--append benchmarks/RESULTS.md]

needs torch and transformers (the extra `test`), and neither TensorFlow nor a sound library. All
start from the same random weights and take the same batch, which is on the device already; the
first step's losses are compared before anything is timed. Beside our step:

- from waveforms: our step computes the log-mels too, from int16. What it takes longer is what
  the frontend on the device costs.
- SDPA: fused attention, autocast to bfloat16, fused Adam, on a GPU torch.compile as well.
- eager: attention as the original has it; on a GPU its fp16 autocast and GradScaler.

With --dtype float32, and for eager on any CPU, nothing is cast.

A round takes a few steps of each in turn, waits for the last, and nothing else; ratios are
medians of the rounds' ratios. See `contest.py` for what runs beside what.

FLOP are those of the matrix products of one pass forward, times three, of the paper's model; what a
step computes anew to save memory does not count, nor what ours saves in the last layer. The matrix
rate is the best that JAX or PyTorch reaches on one large product in --dtype.
"""

import argparse
import sys
from functools import partial
from typing import Any

import numpy as np
from ast_jax.training.memory import keep_freed_memory
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

# The hungriest last: it is the one to run out of memory.
NAMES = ("ours", "from waveforms", "SDPA", "eager")
LEARNING_RATE = 1e-5
WARM_UP = 2  # steps after the first
# Relative, of losses.
TOLERANCE = {"float32": 1e-4, "tf32": 1e-3, "bfloat16": 2e-2}


# ---- in a process of their own


def measure_training(
    names: tuple[str, ...],
    batch_size: int,
    arguments: argparse.Namespace,
    kind: str,
    expected: float | None,
) -> dict[str, Measured]:
    """Checks that the contenders' first losses agree, and times their steps in turn.

    Args:
        names: of `NAMES`.
        batch_size: clips.
        arguments: the command line's.
        kind: 'cuda' or 'cpu'.
        expected: the first loss, if another process knows it.
    """
    keep_freed_memory()  # as train.py has it on a CPU; what PyTorch frees is kept as well
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
    """The package's own training step, as `train.py` puts it together."""
    import jax

    from ast_jax.config import OptimizerConfig
    from ast_jax.models.ast import graphdef
    from ast_jax.sharding import REPLICATED, SPLIT, DataParallel
    from ast_jax.training import step
    from ast_jax.training.optimizer import make_optimizer, make_schedule

    peak = jax_peak()
    from_waveforms = name == "from waveforms"
    taken = ("waveforms", "lengths") if from_waveforms else ("input_values",)
    settings = OptimizerConfig(learning_rate=LEARNING_RATE)
    optimizer = make_optimizer(settings)
    parallel = DataParallel(devices=jax.devices()[:1])
    gradient_fn = step.make_gradient_fn(
        graphdef(config),
        step.binary_cross_entropy,
        lambda key, input_values: input_values,
        step.make_device_inputs(make_extractor(config)) if from_waveforms else step.host_inputs,
        remat="everything" if remat else "norms_and_activations",
    )
    train_step = parallel.map(
        step.make_train_step(
            gradient_fn, optimizer, make_schedule(settings, 1, 1), jax.random.key(0)
        ),
        (REPLICATED, SPLIT),
        REPLICATED,
        donate=(0,),
    )
    batch = parallel.shard_batch({key: batch[key] for key in (*taken, "targets")})
    state = parallel.device_put(step.init_state(params, optimizer))

    def run(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, metrics = train_step(state, batch)
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
    """Hugging Face's model in PyTorch with the original's loss and Adam."""
    import torch
    import transformers

    peak = torch_peak(kind)
    best = name == "SDPA"
    half = half_precision(name, arguments, kind)
    config = transformers.ASTConfig(
        **model_fields(arguments.size, arguments.tiny),
        num_labels=527,
        attn_implementation="sdpa" if best else "eager",
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
        fused=True if best else None,
    )
    scaler = torch.amp.GradScaler(kind, enabled=half == "float16")
    inputs, targets = (torch.from_numpy(batch[key]).to(kind) for key in ("input_values", "targets"))
    cast_to = getattr(torch, half) if half else None
    loss_of = torch.nn.BCEWithLogitsLoss()

    def run(steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)  # before there are activations as well
            with torch.autocast(kind, cast_to, enabled=half is not None):
                loss = loss_of(forward(inputs).logits, targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        wait_for_torch(kind)
        return loss.item()

    return Contender(run, peer_label(name, half or "float32", mode), peak)


# ---- what the command line means


def half_precision(name: str, arguments: argparse.Namespace, kind: str) -> str | None:
    """What a peer is cast to, if to anything."""
    if (arguments.dtype or default_dtype(kind)) == "float32":
        return None
    if name == "SDPA":
        return "bfloat16"
    return "float16" if kind == "cuda" else None


def compile_mode(name: str, arguments: argparse.Namespace, kind: str) -> str:
    """The mode of torch.compile for a peer, or 'none'."""
    if name != "SDPA":
        return "none"
    return arguments.compile or ("default" if kind == "cuda" else "none")


def labels(arguments: argparse.Namespace, kind: str) -> dict[str, str]:
    """What the table calls the contenders."""
    found = {name: our_label(name, arguments.remat) for name in NAMES[:2]}
    for name in NAMES[2:]:
        dtype = half_precision(name, arguments, kind) or "float32"
        found[name] = peer_label(name, dtype, compile_mode(name, arguments, kind))
    return found


def our_label(name: str, remat: bool) -> str:
    """What the table calls ours."""
    return ("ours" if name == "ours" else f"ours, {name}") + (", remat" if remat else "")


# ---- in the first process


HEADER = table_head(
    *("batch", "", "clips/s", "TFLOP/s", "of the matrix rate", "peak memory"),
    "time / ours (quartiles)",
)


def table_rows(batch_size: int, found: dict[str, Measured], flop: int, rate: float) -> list[str]:
    """The table's lines for a batch size."""
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
    """The command line."""
    parser = make_parser(__doc__, ["bfloat16", "float32"])
    parser.add_argument("--batches", type=int, nargs="+", help="clips; 1 4 16 if left out")
    parser.add_argument("--steps", type=int, default=10, help="in a round")
    parser.add_argument("--remat", action="store_true", help="ours computes layers anew")
    parser.set_defaults(fall_back=True)
    arguments = parser.parse_args(argv)
    arguments.batches = arguments.batches or ([2] if arguments.tiny else [1, 4, 16])
    return arguments


def main(argv: list[str]) -> None:
    """Checks that all agree, times them and prints a table."""
    arguments = parse(argv)
    device = alone(describe, arguments.dtype, arguments.tiny)
    dtype = arguments.dtype or default_dtype(device.kind)
    config = ASTConfig().replace(**model_fields(arguments.size, arguments.tiny))
    flop = training_flop(config)
    said = (
        f"{device.name}; a matrix rate of {device.rate / 1e12:.4g} TFLOP/s, {flop / 1e12:.4g} "
        f"TFLOP a clip in the paper's model"
    )
    print(f"{said}; {dtype}\n")
    size = "a tiny model" if arguments.tiny else arguments.size
    title = f"Training step: {size}, {config.max_length} frames, {dtype}"
    named, lines = labels(arguments, device.kind), list(HEADER)
    print(*lines, sep="\n", flush=True)
    failed = False
    try:
        for batch_size in arguments.batches:
            found = measure_batch(measure_training, named, batch_size, arguments, device.kind)
            rows = table_rows(batch_size, found, flop, device.rate)
            print(*rows, sep="\n", flush=True)
            lines += rows
            failed |= any(one.remark.startswith("failed") for one in found.values())
    finally:  # what was measured before something failed, or was interrupted, is kept
        if arguments.append and len(lines) > len(HEADER):
            command = ["python", "benchmarks/training.py", *argv]
            append(arguments.append, title, command, said, lines)
    if failed:
        sys.exit("not all of it ran; what failed is told above")


if __name__ == "__main__":
    main(sys.argv[1:])
