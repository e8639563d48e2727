"""Times variants of the training step that cost less than the paper's, in one process.

    python benchmarks/variants.py [--size base384] [--batch 2] [--rounds 3] [--tiny]

Needs neither torch nor TensorFlow nor audio libraries. The variants are larger patch strides,
structured Patchout, and rematerialization of whole layers. Only the last does not change the model;
its loss must equal the plain one's. Effects on accuracy are not measured.

Each round computes loss and gradients of each variant in turn; speed-ups are medians of the rounds'
ratios. FLOP are those of `training.py`. "Residuals" are the bytes per clip that the forward pass
saves for the backward pass, without parameters. "Temporary" is the memory that the compiled program
needs besides its arguments and results, according to its compiler.
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
import optax
from common import cpu_name, quartiles, table_header, table_row, versions
from models import TINY, make_batch, training_flop
from training import TOLERANCE

sys.path.insert(0, str(Path(__file__).parent.parent))

from flax import nnx

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.config import AugmentConfig
from ast_jax.losses import binary_cross_entropy
from ast_jax.models.ast import graphdef, init_params
from ast_jax.models.attention import resolve_attn_implementation
from ast_jax.models.config import NUM_PREFIX_TOKENS, SIZES, ASTConfig
from ast_jax.sharding import REPLICATED, SPLIT, DataParallel
from ast_jax.training.step import StepSpec, loss_and_gradients, make_patchout

MIB = 2**20


class Variant(NamedTuple):
    """A variant of the training step.

    Attributes:
        label: its name in the table.
        stride: of the patches, along frequency and time.
        rows: number of patch rows that Patchout drops.
        columns: the same along time.
        remat: rematerialization policy.
    """

    label: str
    stride: int = 10
    rows: int = 0
    columns: int = 0
    remat: str = "norms_and_activations"


VARIANTS = (
    Variant("plain, as in the paper"),
    Variant("remat", remat="everything"),
    Variant("stride 12", stride=12),
    Variant("stride 14", stride=14),
    Variant("stride 16", stride=16),
    Variant("Patchout 4 x 0", rows=4),
    Variant("Patchout 0 x 40", columns=40),
    Variant("Patchout 4 x 40", rows=4, columns=40),
)


class CompiledVariant(NamedTuple):
    """A compiled variant.

    Attributes:
        run: computes loss and gradients the given number of times, waits and returns the loss.
        tokens: number of tokens in the encoder.
        flop: FLOP per clip.
        residuals: bytes per clip that are saved for the backward pass.
        temporary: bytes of temporary memory.
    """

    run: Callable[[int], float]
    tokens: int
    flop: int
    residuals: int
    temporary: int


def compile_variant(variant: Variant, fields: dict[str, Any], batch_size: int) -> CompiledVariant:
    """Compiles a variant's forward and backward pass on one device."""
    stride = {"frequency_stride": variant.stride, "time_stride": variant.stride}
    config = ASTConfig().replace(**fields, **stride)
    rows = min(variant.rows, config.grid[0] - 1)
    columns = min(variant.columns, config.grid[1] - 1)
    augment = AugmentConfig(patchout_frequency=rows, patchout_time=columns)
    patchout = make_patchout(augment, config)
    parallel = DataParallel(devices=jax.devices()[:1])
    graph = graphdef(config, resolve_attn_implementation(config, parallel.devices))
    params = init_params(config)
    spec = StepSpec(
        graph,
        ASTFeatureExtractor(max_length=config.max_length, num_mel_bins=config.num_mel_bins),
        binary_cross_entropy,
        optax.identity(),
        optax.constant_schedule(0.0),
        jax.random.key(0),
        patchout=patchout,
        remat=variant.remat,
    )
    mapped = parallel.map(partial(loss_and_gradients, spec), (REPLICATED, SPLIT, REPLICATED))
    arguments = (params, parallel.shard_batch(make_batch(config, batch_size)), jax.random.key(0))
    compiled = mapped.lower(*arguments).compile()

    def run(repeats: int) -> float:
        for _ in range(repeats):
            loss, gradients = compiled(*arguments)
        jax.block_until_ready(gradients)
        return float(loss)

    def forward(params: Any, clips: jax.Array, keys: jax.Array) -> Any:
        keep_indices = patchout(keys, config.max_length, None) if patchout else None

        def logits(params: Any) -> jax.Array:
            return nnx.merge(graph, params)(clips, keep_indices, remat=variant.remat)

        return jax.vjp(logits, params)[1]

    def residual_bytes(clips: int) -> int:
        shape = (clips, config.max_length, config.num_mel_bins)
        input_values = jax.ShapeDtypeStruct(shape, np.float32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), clips))
        arrays = jax.tree.leaves(jax.eval_shape(forward, params, input_values, keys))
        return sum(array.size * array.dtype.itemsize for array in arrays)

    tokens = NUM_PREFIX_TOKENS + (config.grid[0] - rows) * (config.grid[1] - columns)
    return CompiledVariant(
        run,
        tokens,
        training_flop(config, tokens),
        residual_bytes(2) - residual_bytes(1),
        compiled.memory_analysis().temp_size_in_bytes,
    )


def main(argv: list[str]) -> None:
    """Compiles the variants, checks the losses, times all and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="base384")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="float32")
    parser.add_argument(
        "--tiny", action="store_true", help="some variants of a small model, to try the script"
    )
    arguments = parser.parse_args(argv)
    device = jax.devices()[0]
    print(cpu_name() if device.platform == "cpu" else device.device_kind, end="; ")
    print(f"Python {platform.python_version()}, {versions(['jax', 'flax', 'numpy'])}")
    print(f"{arguments.size}, batch {arguments.batch}, {arguments.dtype}\n")
    fields = TINY if arguments.tiny else SIZES[arguments.size]
    fields = fields | {"dtype": arguments.dtype}

    variants = (*VARIANTS[:3], VARIANTS[-1]) if arguments.tiny else VARIANTS
    compiled = {variant: compile_variant(variant, fields, arguments.batch) for variant in variants}
    losses = {variant: each.run(1) for variant, each in compiled.items()}
    plain, remat = VARIANTS[:2]
    tolerance = TOLERANCE[arguments.dtype]
    assert np.isclose(losses[remat], losses[plain], rtol=tolerance), f"losses differ: {losses}"
    assert np.isfinite(list(losses.values())).all(), f"not finite: {losses}"

    seconds = {variant: np.empty(arguments.rounds) for variant in variants}
    for i in range(arguments.rounds):
        for variant, each in compiled.items():
            start = time.perf_counter()
            each.run(arguments.steps)
            seconds[variant][i] = (time.perf_counter() - start) / arguments.steps
    titles = ("tokens", "GFLOP per clip", "residuals per clip", "temporary", "per step")
    print(*table_header("", *titles, "speed-up (quartiles)"), sep="\n")
    for variant, each in compiled.items():
        cells = (
            variant.label,
            str(each.tokens),
            f"{each.flop / 1e9:.4g}",
            f"{each.residuals / MIB:.4g} MiB",
            f"{each.temporary / MIB:.4g} MiB",
            f"{1e3 * np.median(seconds[variant]):.4g} ms",
            quartiles(seconds[plain] / seconds[variant]),
        )
        print(table_row(cells))


if __name__ == "__main__":
    main(sys.argv[1:])
