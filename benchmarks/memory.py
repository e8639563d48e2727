"""Finds the largest batch that a training step takes, ours and PyTorch's, on one GPU.

    python benchmarks/memory.py [--size base384] [--first 16] [--limit 4096] [--names ours SDPA]
        [--append benchmarks/RESULTS.md]

needs what `training.py` needs, whose steps these are: ours, which computes norms and GELUs anew
for the backward pass, the same with `remat`, which computes whole layers anew, and both of Hugging
Face's. Every trial is a process of its own with the whole of the GPU, of whose memory JAX takes
95 % at once and PyTorch what it asks for. From --first on the batch is doubled until it does not
fit; then the gap is halved until it is an eighth or less. A trial that fails for another reason
counts as too large, and the table says so. `training.py` compares the losses; here each has to be
finite.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable

import numpy as np
from common import append, table_head, table_row
from contest import Measured, alone, make_parser, measure_alone
from device import default_dtype, describe
from models import model_fields, training_flop
from training import labels, measure_training

from ast_jax.models.config import ASTConfig

NAMES = ("ours", "ours, remat", "SDPA", "eager")
HEADER = table_head(
    *("", "largest batch", "clips/s there", "of the matrix rate", "peak memory", "clips/s at first")
)


def largest(trial: Callable[[int], bool], first: int, limit: int) -> int:
    """The largest batch that fits, of those tried; 0 if the first does not."""
    fits, too_large = 0, None
    batch_size = first
    while batch_size > fits and (too_large is None or too_large - fits > max(fits // 8, 1)):
        if trial(batch_size):
            fits = batch_size
        else:
            too_large = batch_size
        if fits == 0:
            break
        batch_size = min(2 * fits, limit) if too_large is None else (fits + too_large) // 2
    return fits


def try_batch(name: str, batch_size: int, arguments: argparse.Namespace, kind: str) -> Measured:
    """What `measure_training` found of a contender of `NAMES` in a process of its own."""
    mine, _, policy = name.partition(", ")
    arguments = argparse.Namespace(**vars(arguments) | {"remat": policy == "remat"})
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "true" if mine == "ours" else "false"
    label = labels(arguments, kind)[mine]
    start = time.perf_counter()
    found = measure_alone(measure_training, mine, label, batch_size, arguments, kind, None)
    said = found.remark or "fits"
    seconds = time.perf_counter() - start
    print(f"{label}, {batch_size} clips: {said} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    return found


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__, ["bfloat16", "float32"])
    parser.add_argument("--first", type=int, help="the batch to begin with; 16 if left out")
    parser.add_argument("--limit", type=int, help="no larger batch is tried; 4096 if left out")
    parser.add_argument("--names", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--steps", type=int, default=3, help="in a round")
    # What does not compile must not be measured as something else.
    parser.set_defaults(rounds=3, fall_back=False)
    arguments = parser.parse_args(argv)
    if arguments.first is None:
        arguments.first = 1 if arguments.tiny else 16
    if arguments.limit is None:
        arguments.limit = 3 if arguments.tiny else 4096
    if not 1 <= arguments.first <= arguments.limit:
        parser.error("give a --first of 1 or more, up to --limit")
    return arguments


def main(argv: list[str]) -> None:
    """Finds the largest batches and prints a table."""
    arguments = parse(argv)
    device = alone(describe, arguments.dtype, arguments.tiny)
    dtype = arguments.dtype or default_dtype(device.kind)
    config = ASTConfig().replace(**model_fields(arguments.size, arguments.tiny))
    said = f"{device.name}; a matrix rate of {device.rate / 1e12:.4g} TFLOP/s"
    print(f"{said}; {dtype}\n")
    size = "a tiny model" if arguments.tiny else arguments.size
    title = f"Largest batch of a training step: {size}, {config.max_length} frames, {dtype}"
    lines = list(HEADER)
    print(*lines, sep="\n", flush=True)
    failed = False
    try:
        for name in arguments.names:
            found: dict[int, Measured] = {}

            def fits(batch_size: int, name: str = name, found: dict = found) -> bool:
                found[batch_size] = try_batch(name, batch_size, arguments, device.kind)
                return found[batch_size].seconds is not None

            best = largest(fits, arguments.first, arguments.limit)
            row = table_row(cells(name, best, found, training_flop(config) / device.rate))
            print(row, flush=True)
            lines.append(row)
            failed |= any(one.remark.startswith("failed") for one in found.values())
    finally:  # what was measured before something failed, or was interrupted, is kept
        if arguments.append and len(lines) > len(HEADER):
            command = ["python", "benchmarks/memory.py", *argv]
            append(arguments.append, title, command, said, lines)
    if failed:
        sys.exit("not all of it ran; what failed is told above")


def cells(name: str, best: int, found: dict[int, Measured], ideal: float) -> list[str]:
    """A contender's line of the table, of what was found of each batch.

    `ideal` is the time of a clip at the matrix rate, in seconds.
    """
    first = min(found)
    failed = {size: one for size, one in found.items() if one.remark.startswith("failed")}
    remark = "".join(f"; {size} {one.remark}" for size, one in failed.items())
    if not best:
        return [found[first].label, f"below {first}: {found[first].remark}", *[""] * 4]
    clips = {size: size / np.median(found[size].seconds) for size in (first, best)}
    peak = found[best].peak
    limit = " (the limit)" if best == max(found) else ""
    return [
        found[best].label,
        f"{best}{limit}{remark}",
        f"{clips[best]:.4g}",
        f"{clips[best] * ideal:.0%}",
        f"{peak / 2**30:.2f} GiB" if peak else "–",
        f"{clips[first]:.4g} at {first}",
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
