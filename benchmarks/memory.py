"""Finds the largest batch of a training step on one GPU, for ours and PyTorch's.

    python benchmarks/memory.py [--size base384] [--first 16] [--limit 4096] [--names ours SDPA]
        [--append benchmarks/RESULTS.md]

Times the steps of `training.py` and has its requirements. Ours rematerializes LayerNorm and GELU,
and with `remat` whole layers; Hugging Face's runs with SDPA and eager attention. Each trial has a
process and the whole GPU to itself. JAX reserves 95 % of the memory at the start, PyTorch allocates
on demand. The batch doubles from --first until it does not fit; then the interval is bisected to an
eighth. A trial that fails for another reason counts as too large, with a remark in the table.
Losses must be finite; `training.py` compares them.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from common import table_header, table_row
from contest import Measurement, make_parser, measure_alone, print_table, run_in_process
from device import default_dtype, describe
from models import model_fields, training_flop
from training import labels, measure_training

from ast_jax.models.config import ASTConfig

NAMES = ("ours", "ours, remat", "SDPA", "eager")
HEADER = table_header(
    *("", "largest batch", "clips/s there", "of the matrix rate", "peak memory", "clips/s at first")
)


def largest(trial: Callable[[int], bool], first: int, limit: int) -> int:
    """Returns the largest tried batch that fits, or 0 if the first does not."""
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


def try_batch(name: str, batch_size: int, arguments: argparse.Namespace, kind: str) -> Measurement:
    """Measures a contender of `NAMES` in a new process."""
    contender, _, policy = name.partition(", ")
    arguments = argparse.Namespace(**vars(arguments) | {"remat": policy == "remat"})
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "true" if contender == "ours" else "false"
    label = labels(arguments, kind)[contender]
    start = time.perf_counter()
    found = measure_alone(measure_training, contender, label, batch_size, arguments, kind, None)
    outcome = found.remark or "fits"
    seconds = time.perf_counter() - start
    print(f"{label}, {batch_size} clips: {outcome} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    return found


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses and checks the command line."""
    parser = make_parser(__doc__, ["bfloat16", "float32"])
    parser.add_argument("--first", type=int, help="the first batch; default: 16")
    parser.add_argument("--limit", type=int, help="the largest batch to try; default: 4096")
    parser.add_argument("--names", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--steps", type=int, default=3, help="per round")
    # Without the fallback to uncompiled code, which needs another amount of memory.
    parser.set_defaults(rounds=3, fall_back=False)
    arguments = parser.parse_args(argv)
    if arguments.first is None:
        arguments.first = 1 if arguments.tiny else 16
    if arguments.limit is None:
        arguments.limit = 3 if arguments.tiny else 4096
    if not 1 <= arguments.first <= arguments.limit:
        parser.error("give --first between 1 and --limit")
    return arguments


def main(argv: list[str]) -> None:
    """Finds the largest batches and prints a table."""
    arguments = parse(argv)
    device = run_in_process(describe, arguments.dtype, arguments.tiny)
    dtype = arguments.dtype or default_dtype(device.kind)
    config = ASTConfig().replace(**model_fields(arguments.size, arguments.tiny))
    setup = f"{device.name}; a matrix rate of {device.rate / 1e12:.4g} TFLOP/s"
    print(f"{setup}; {dtype}\n")
    size = "a tiny model" if arguments.tiny else arguments.size
    title = f"Largest batch of a training step: {size}, {config.max_length} frames, {dtype}"
    command = ["python", "benchmarks/memory.py", *argv]

    def measurements() -> Iterator[tuple[list[str], Iterable[Measurement]]]:
        for name in arguments.names:
            found: dict[int, Measurement] = {}

            def fits(batch_size: int, name: str = name, found: dict = found) -> bool:
                found[batch_size] = try_batch(name, batch_size, arguments, device.kind)
                return found[batch_size].seconds is not None

            best = largest(fits, arguments.first, arguments.limit)
            yield [contender_row(best, found, training_flop(config) / device.rate)], found.values()

    print_table(command, title, setup, HEADER, measurements(), arguments.append)


def contender_row(best: int, found: dict[int, Measurement], ideal: float) -> str:
    """Returns a contender's row.

    Args:
        best: the largest batch that fits, or 0.
        found: the measurement of each batch tried.
        ideal: seconds per clip at the matrix rate.
    """
    first = min(found)
    failed = {size: one for size, one in found.items() if one.remark.startswith("failed")}
    remark = "".join(f"; {size} {one.remark}" for size, one in failed.items())
    if not best:
        return table_row([found[first].label, f"below {first}: {found[first].remark}", *[""] * 4])
    clips = {size: size / np.median(found[size].seconds) for size in (first, best)}
    peak = found[best].peak
    limit = " (the limit)" if best == max(found) else ""
    return table_row(
        [
            found[best].label,
            f"{best}{limit}{remark}",
            f"{clips[best]:.4g}",
            f"{clips[best] * ideal:.0%}",
            f"{peak / 2**30:.2f} GiB" if peak else "–",
            f"{clips[first]:.4g} at {first}",
        ]
    )


if __name__ == "__main__":
    main(sys.argv[1:])
