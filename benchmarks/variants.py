"""Times what makes training cheaper than the paper's, each beside the plain model, in one process.

    python benchmarks/variants.py [--size base384] [--batch 2] [--rounds 3] [--tiny]

needs neither torch nor TensorFlow nor a sound library. Variants are larger strides of the patches,
structured Patchout, and rematerialization of whole layers; only the last leaves the model as it is,
and its loss must be the plain one's. What they do to accuracy is not measured here.

A round takes a few times loss and gradients of each in turn; speed-ups are medians of the rounds'
ratios. FLOP are those of the model's matrix products as in `training.py`. "Kept" is what the
forward pass hands on to the backward pass for a clip, parameters apart; "temporary" all that the
compiled program needs beside its arguments and results, as its compiler counts it.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from common import cpu, table_head, table_row, versions
from models import TINY, make_batch, training_flop
from training import TOLERANCE

sys.path.insert(0, str(Path(__file__).parent.parent))

from flax import nnx

from ast_jax.models.ast import graphdef, init_params
from ast_jax.models.config import SIZES, ASTConfig
from ast_jax.models.patchout import sample_patchout
from ast_jax.sharding import REPLICATED, SPLIT, DataParallel
from ast_jax.training import step

MIB = 2**20


class Variant(NamedTuple):
    """A way to train.

    Attributes:
        label: what the table calls it.
        stride: of the patches, along frequency and time.
        rows: of patches that Patchout leaves out.
        columns: the same along time.
        remat: what the backward pass recomputes, see `ast_jax.models.remat`.
    """

    label: str
    stride: int = 10
    rows: int = 0
    columns: int = 0
    remat: str = "norms_and_activations"


VARIANTS = (
    Variant("plain, as the paper"),
    Variant("remat", remat="everything"),
    Variant("stride 12", stride=12),
    Variant("stride 14", stride=14),
    Variant("stride 16", stride=16),
    Variant("Patchout 4 x 0", rows=4),
    Variant("Patchout 0 x 40", columns=40),
    Variant("Patchout 4 x 40", rows=4, columns=40),
)


class Prepared(NamedTuple):
    """A variant, compiled.

    Attributes:
        run: computes loss and gradients so many times, waits and returns the loss.
        tokens: that the encoder sees.
        flop: of a clip.
        kept: bytes handed to the backward pass for a clip.
        temporary: bytes that the program needs for itself.
    """

    run: Callable[[int], float]
    tokens: int
    flop: int
    kept: int
    temporary: int


def prepare(variant: Variant, fields: dict[str, Any], batch_size: int) -> Prepared:
    """Compiles a variant's forward and backward pass on one device."""
    stride = {"frequency_stride": variant.stride, "time_stride": variant.stride}
    config = ASTConfig().replace(**fields, **stride)
    rows = min(variant.rows, config.grid[0] - 1)
    columns = min(variant.columns, config.grid[1] - 1)
    patchout = jax.vmap(partial(sample_patchout, grid=config.grid, rows=rows, columns=columns))
    patchout = patchout if rows or columns else None
    graph, params = graphdef(config), init_params(config)
    gradient_fn = step.make_gradient_fn(
        graph,
        step.binary_cross_entropy,
        lambda keys, input_values: input_values,
        patchout=patchout,
        remat=variant.remat,
    )
    parallel = DataParallel(devices=jax.devices()[:1])
    mapped = parallel.map(gradient_fn, (REPLICATED, SPLIT, REPLICATED))
    arguments = (params, parallel.shard_batch(make_batch(config, batch_size)), jax.random.key(0))
    compiled = mapped.lower(*arguments).compile()

    def run(times: int) -> float:
        for _ in range(times):
            loss, gradients = compiled(*arguments)
        jax.block_until_ready(gradients)
        return float(loss)

    def forward(params: Any, clips: jax.Array, keys: jax.Array) -> Any:
        kept = patchout(keys) if patchout else None

        def logits(params: Any) -> jax.Array:
            return nnx.merge(graph, params)(clips, kept, remat=variant.remat)

        return jax.vjp(logits, params)[1]

    def handed_on(clips: int) -> int:
        shape = (clips, config.max_length, config.num_mel_bins)
        input_values = jax.ShapeDtypeStruct(shape, np.float32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), clips))
        arrays = jax.tree.leaves(jax.eval_shape(forward, params, input_values, keys))
        return sum(array.size * array.dtype.itemsize for array in arrays)

    kept_tokens = 2 + (config.grid[0] - rows) * (config.grid[1] - columns)
    return Prepared(
        run,
        kept_tokens,
        training_flop(config, kept_tokens),
        handed_on(2) - handed_on(1),
        compiled.memory_analysis().temp_size_in_bytes,
    )


def main() -> None:
    """Compiles all, checks the loss under rematerialization, times them and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="base384")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1, help="in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="float32")
    parser.add_argument(
        "--tiny", action="store_true", help="some on a small model, to try the script"
    )
    arguments = parser.parse_args()
    device = jax.devices()[0]
    print(cpu() if device.platform == "cpu" else device.device_kind, end="; ")
    print(f"Python {platform.python_version()}, {versions(['jax', 'flax', 'numpy'])}")
    print(f"{arguments.size}, batch {arguments.batch}, {arguments.dtype}\n")
    fields = TINY if arguments.tiny else SIZES[arguments.size]
    fields = fields | {"dtype": arguments.dtype}

    variants = (*VARIANTS[:3], VARIANTS[-1]) if arguments.tiny else VARIANTS
    prepared = {variant: prepare(variant, fields, arguments.batch) for variant in variants}
    losses = {variant: each.run(1) for variant, each in prepared.items()}
    plain, remat = VARIANTS[:2]
    tolerance = TOLERANCE[arguments.dtype]
    assert np.isclose(losses[remat], losses[plain], rtol=tolerance), f"losses differ: {losses}"
    assert np.isfinite(list(losses.values())).all(), f"not finite: {losses}"

    seconds = {variant: np.empty(arguments.rounds) for variant in variants}
    for i in range(arguments.rounds):
        for variant, each in prepared.items():
            start = time.perf_counter()
            each.run(arguments.steps)
            seconds[variant][i] = (time.perf_counter() - start) / arguments.steps
    titles = ("tokens", "GFLOP a clip", "kept a clip", "temporary", "a step")
    print(*table_head("", *titles, "speed-up (quartiles)"), sep="\n")
    for variant, each in prepared.items():
        low, middle, high = np.percentile(seconds[plain] / seconds[variant], [25, 50, 75])
        cells = (
            variant.label,
            str(each.tokens),
            f"{each.flop / 1e9:.4g}",
            f"{each.kept / MIB:.4g} MiB",
            f"{each.temporary / MIB:.4g} MiB",
            f"{1e3 * np.median(seconds[variant]):.4g} ms",
            f"{middle:.2f} ({low:.2f} to {high:.2f})",
        )
        print(table_row(cells))


if __name__ == "__main__":
    main()
