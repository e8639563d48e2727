"""Times training steps on clips of many lengths, with and without length buckets.

    python benchmarks/buckets.py [--size tiny224] [--layers 12] [--buckets 4] [--batch 8]
        [--steps 16] [--rounds 3] [--dtype float32] [--append benchmarks/RESULTS.md]

Clips last 0.5 to 10 s, with evenly distributed logarithms. Each round takes the steps of one epoch
with padding masked, first all in inputs of 1,024 frames and then in those of their buckets. The
clips are the same. Batches are made before the clock starts.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from common import append_results, cpu_name, quartiles, table_header, table_row, versions
from models import make_extractor

from ast_jax.checkpoint.format import Checkpoint
from ast_jax.config import OptimizerConfig, TrainConfig
from ast_jax.data.batches import Batch, trim
from ast_jax.data.clips import Clips
from ast_jax.models.ast import init_params
from ast_jax.models.config import NUM_PREFIX_TOKENS, SIZES, ASTConfig
from ast_jax.sharding import DataParallel
from ast_jax.training.setup import RunLength, build_step_functions, make_train_batches

RATE = 16000
SHORTEST, LONGEST = 0.5, 10.0  # seconds


def make_clips(number: int, labels: int) -> Clips:
    """Returns noise of different lengths."""
    rng = np.random.default_rng(0)
    seconds = np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST), number))
    waveforms = [rng.integers(-9999, 9999, int(RATE * s)).astype(np.int16) for s in seconds]
    targets = np.eye(labels, dtype=np.float32)[np.arange(number) % labels]
    return Clips(waveforms, targets, [str(i) for i in range(number)])


def make_batches(config: TrainConfig, clips: Clips, steps: int) -> list[Batch]:
    """Returns the batches of an epoch."""
    batches = make_train_batches(config, clips, make_extractor(config.model))
    return [trim(batches(step)) for step in range(steps)]


def tokens(model: ASTConfig, batch: Batch) -> int:
    """Returns the tokens of each clip of a batch."""
    columns = (batch["input_values"].shape[1] - model.patch_size) // model.time_stride + 1
    return NUM_PREFIX_TOKENS + model.grid[0] * columns


def main(argv: Sequence[str]) -> None:
    """Measures both and prints a table."""
    arguments = parse(argv)
    layers = {"num_hidden_layers": arguments.layers} if arguments.layers else {}
    model = ASTConfig.from_size(
        arguments.size, **layers, num_labels=10, dtype=arguments.dtype, mask_padding=True
    )
    steps, batch = arguments.steps, arguments.batch
    config = TrainConfig(model=model, batch_size=batch, optimizer=OptimizerConfig())
    clips = make_clips(steps * batch, model.num_labels)
    parallel = DataParallel(devices=jax.devices()[:1])
    initial = Checkpoint(model, make_extractor(model), init_params(model))
    functions, state = build_step_functions(config, initial, parallel, RunLength(steps, steps))
    epochs = {}
    for buckets in (1, arguments.buckets):
        config.length_buckets = buckets
        epochs[buckets] = [parallel.shard_batch(b) for b in make_batches(config, clips, steps)]
    seconds: dict[int, list[list[float]]] = {buckets: [] for buckets in epochs}
    for measured in [False] + [True] * arguments.rounds:  # the first compiles
        for buckets, batches in epochs.items():
            times = []
            for each in batches:
                start = time.perf_counter()
                state, metrics = functions.train_step(state, each)
                jax.block_until_ready(metrics)
                times.append(time.perf_counter() - start)
            if measured:
                seconds[buckets].append(times)
    lines = table_header("lengths", "tokens a clip", "step", "clips/s", "ratio of an epoch's time")
    whole = np.sum(seconds[1], axis=1)
    for buckets, batches in epochs.items():
        total = np.sum(seconds[buckets], axis=1)
        mean_tokens = np.mean([tokens(model, each) for each in batches])
        lines.append(
            table_row(
                [
                    str(buckets),
                    f"{mean_tokens:.0f}",
                    quartiles(np.array(seconds[buckets]).ravel(), " s"),
                    f"{steps * batch / np.median(total):.2f}",
                    quartiles(total / whole),
                ]
            )
        )
    print("\n".join(lines))
    if arguments.append:
        title = f"Length buckets: {arguments.size}, {model.num_hidden_layers} layers, {batch} clips"
        setup = f"{cpu_name()}; {versions(['jax'])}"
        command = ["python", "benchmarks/buckets.py", *argv]
        append_results(arguments.append, title, command, setup, lines)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="tiny224")
    parser.add_argument("--layers", type=int, help="instead of the size's")
    parser.add_argument("--buckets", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--append", type=Path, help="a Markdown file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(sys.argv[1:])
