"""Finds the largest batch that a training step takes, ours and PyTorch's, on one GPU.

    python benchmarks/memory.py [--size base384] [--first 16] [--limit 4096] [--names ours SDPA]
        [--append benchmarks/RESULTS.md]

needs what `training.py` needs, whose steps these are: ours with its two policies of
rematerialisation (what the step keeps of norms and GELUs are their arguments alone; with `remat`
of each layer its input alone), and both of Hugging Face's. Every trial is a process of its own,
with the whole of the GPU: JAX may have 95 % of its memory, PyTorch what there is. From --first on
the batch is doubled until it does not fit; then the gap is halved until it is an eighth or less.
`training.py` compares their losses; here each has to be finite.
"""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from common import table_head, table_row
from contest import Measured, alone, append, default_dtype, describe
from models import model_fields, training_flop
from training import labels, make_parser, measure_training

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
    try:
        return alone(measure_training, (mine,), batch_size, arguments, kind, None)[mine]
    except BrokenProcessPool:  # killed by the system, for memory
        return Measured(name, remark="its process was killed")


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--first", type=int, help="the batch to begin with; 16 if left out")
    parser.add_argument("--limit", type=int, help="no larger batch is tried; 4096 if left out")
    parser.add_argument("--names", nargs="+", choices=NAMES, default=list(NAMES))
    parser.set_defaults(steps=3, rounds=3, remat=False)
    arguments = parser.parse_args(argv)
    arguments.first = arguments.first or (1 if arguments.tiny else 16)
    arguments.limit = arguments.limit or (3 if arguments.tiny else 4096)
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
    lines = list(HEADER)
    print(*lines, sep="\n", flush=True)
    for name in arguments.names:
        found: dict[int, Measured] = {}

        def trial(batch_size: int, name: str = name, found: dict = found) -> bool:
            found[batch_size] = try_batch(name, batch_size, arguments, device.kind)
            return found[batch_size].seconds is not None

        best = largest(trial, arguments.first, arguments.limit)
        row = table_row(cells(name, best, found, arguments, device.kind, config, device.rate))
        print(row, flush=True)
        lines.append(row)
    if arguments.append:
        size = "a tiny model" if arguments.tiny else arguments.size
        title = f"Largest batch of a training step: {size}, {config.max_length} frames, {dtype}"
        append(arguments.append, title, ["python", "benchmarks/memory.py", *argv], said, lines)


def cells(
    name: str,
    best: int,
    found: dict[int, Measured],
    arguments: argparse.Namespace,
    kind: str,
    config: ASTConfig,
    rate: float,
) -> list[str]:
    """A contender's line of the table."""
    label = name if name.startswith("ours") else labels(arguments, kind)[name]
    if not best:
        return [label, f"below {arguments.first}: {found[arguments.first].remark}", *[""] * 4]
    clips = {size: size / np.median(found[size].seconds) for size in (arguments.first, best)}
    share = clips[best] * training_flop(config) / rate
    peak = found[best].peak
    return [
        found[best].label,
        f"{best} (the limit)" if best == arguments.limit else str(best),
        f"{clips[best]:.4g}",
        f"{share:.0%}",
        f"{peak / 2**30:.2f} GiB" if peak else "–",
        f"{clips[arguments.first]:.4g} at {arguments.first}",
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
