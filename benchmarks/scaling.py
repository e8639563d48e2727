"""Counts the bytes that a training step exchanges, and predicts its efficiency on many chips.

    python benchmarks/scaling.py [--devices 8 64 256] [--clips 2 12] [--utilization .4] [--tiny]

Needs neither a GPU nor TensorFlow. Only the first part is a measurement:

- The training step (AudioSet's recipe in bfloat16, without augmentation, which needs no
  collectives) is lowered and compiled
  for virtual CPU devices, from shapes alone, each time in a new process: with the optimizer state
  replicated, and sharded (ZeRO-1, `shard_optimizer`). The collectives are counted in the lowered
  and in the compiled HLO. The compiled ones depend on the backend: XLA:CPU combines all-reduces and
  widens them to float32; those for GPUs and TPUs combine them up to a size.
- The lowered bytes and the figures in `MACHINES` give a predicted efficiency for a constant batch
  per chip (weak scaling). Nothing of it was run, and it does not say how well so large a batch
  trains.
"""

import argparse
import itertools
import platform
import resource
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from chips import CHIPS
from common import cpu_name, table_header, table_row, versions
from contest import run_in_process
from hlo import ARRAY, Program, is_collective, type_bytes
from models import TINY, make_extractor, training_flop

sys.path.insert(0, str(Path(__file__).parent.parent))

from ast_jax.models.config import SIZES, ASTConfig

CONFIG = Path(__file__).parent.parent / "configs" / "audioset_full.py"
CHIP_COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024)
BACKWARD = 2 / 3  # share of a step: two of its three matrix products


class Machine(NamedTuple):
    """Assumptions about a machine: vendors' figures, and guesses where none are published.

    Bandwidths are in bytes/s per chip and direction.

    Attributes:
        name: of the chip.
        peak: dense bfloat16 FLOP/s per chip.
        group: number of chips that fast links connect.
        axes: number of axes of their torus; 1 for a ring.
        closed: number of chips from which the torus has wraparound links; without them a row has
            one ring instead of two, which halves the bandwidth.
        fast: bandwidth inside a group.
        fast_hop: latency between neighbors in a group, in seconds.
        slow: bandwidth between groups.
        slow_hop: latency between groups, in seconds.
    """

    name: str
    peak: float
    group: int
    axes: int
    closed: int
    fast: float
    fast_hop: float
    slow: float
    slow_hop: float


MACHINES = (
    # NVIDIA's data sheet (DGX H100): NVLink 900 GB/s bidirectional, eight 400 Gb/s InfiniBand ports
    # for eight GPUs. Latencies: those of NCCL's cost model for rings.
    Machine("H100", CHIPS["h100"].peak, 8, 1, 1, 450e9, 3.4e-6, 50e9, 14e-6),
    # Google's TPU documentation: four links of 400 Gb/s, pods of 256 chips with 6.4 Tb/s between
    # pods; an axis of 16 has wraparound links. Latencies are guesses.
    Machine("TPU v5e", CHIPS["v5e"].peak, 256, 2, 256, 200e9, 1e-6, 3.1e9, 50e-6),
    # The same: 4,800 Gb/s in six links, wraparound from 4 x 4 x 4 on, slices of up to 6,144 chips,
    # 50 Gb/s per chip between slices, which no column of the table reaches.
    Machine("TPU v5p", CHIPS["v5p"].peak, 6144, 3, 64, 600e9, 1e-6, 6.2e9, 50e-6),
)


# By kind of collective: the number in the program, the bytes of their whole arrays (reduced,
# gathered, or before they are scattered) and the dtypes.
Collectives = dict[str, tuple[int, int, set[str]]]


class Compilation(NamedTuple):
    """The training step compiled for a number of devices.

    Attributes:
        lower_seconds: to trace and lower the step.
        compile_seconds: to compile it.
        host_bytes: peak memory of the process.
        device_bytes: state and batch of a device.
        lowered: the collectives before compilation.
        compiled: the collectives after it.
    """

    lower_seconds: float
    compile_seconds: float
    host_bytes: int
    device_bytes: int
    lowered: Collectives
    compiled: Collectives


# ---- in a new process


def compile_step(model: ASTConfig, devices: int, split: bool) -> Compilation:
    """Compiles the step for virtual devices from shapes, without creating arrays.

    Each device has two clips, as the CPU's program for one clip differs.

    Args:
        model: configuration of the model.
        devices: their number.
        split: whether the optimizer state is sharded.
    """
    import jax
    import jax.numpy as jnp

    from ast_jax.checkpoint.format import Checkpoint
    from ast_jax.config import AugmentConfig
    from ast_jax.config_files import load_config
    from ast_jax.models.ast import param_shapes
    from ast_jax.sharding import SPLIT, DataParallel
    from ast_jax.training.setup import RunLength, map_step_functions

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    # Otherwise a compilation may be a read from the cache.
    jax.config.update("jax_enable_compilation_cache", False)
    config = load_config(CONFIG)
    config.model, config.augment, config.shard_optimizer = model, AugmentConfig(), split
    parallel, params = DataParallel(), param_shapes(model)
    length = RunLength(10**5, 10**6)  # changes only constants in the program
    functions = map_step_functions(
        config, Checkpoint(model, make_extractor(model), params), parallel, length
    )
    shapes = {
        "input_values": (2 * devices, model.max_length, model.num_mel_bins),
        "targets": (2 * devices, model.num_labels),
    }
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    state = jax.eval_shape(functions.init_state, params)
    arguments = [
        jax.tree.map(lambda x, s: x.update(sharding=s), tree, parallel.shardings(tree, specs))
        for tree, specs in ((state, functions.state_specs), (batch, SPLIT))
    ]
    start = time.perf_counter()
    lowered = functions.train_step.lower(*arguments)
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    return Compilation(
        middle - start,
        end - middle,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # Linux counts in KiB
        compiled.memory_analysis().argument_size_in_bytes,
        count_collectives(lowered.as_text(dialect="hlo"), devices),
        count_collectives(compiled.as_text(), devices),
    )


def count_collectives(hlo: str, devices: int) -> Collectives:
    """Counts the collectives that a program runs, those in loops as often as the loops run them."""
    found: Collectives = {}
    for execution in filter(is_collective, Program(hlo).executions()):
        kind = execution.instruction.opcode.removesuffix("-start")
        if kind != execution.instruction.opcode and kind != "all-reduce":
            sys.exit("cannot count the bytes of asynchronous collectives")
        count, size, dtypes = found.get(kind, (0, 0, set()))
        result, times = execution.instruction.result, execution.times
        dtypes |= {dtype for dtype, _, _ in ARRAY.findall(result)}
        whole = devices if kind == "reduce-scatter" else 1
        found[kind] = count + times, size + times * whole * int(type_bytes(result)), dtypes
    return found


# ---- prediction


def exchange_seconds(machine: Machine, chips: int, size: float) -> float:
    """Predicts the time of an all-reduce of `size` bytes in rings, inside groups and between them.

    Between groups each chip exchanges the shard that it has reduced inside its group.
    """
    inside = min(chips, machine.group)
    bandwidth = machine.fast if inside >= machine.closed else machine.fast / 2
    hops = 2 * machine.axes * (inside ** (1 / machine.axes) - 1)
    seconds = 2 * (inside - 1) / inside * size / bandwidth + hops * machine.fast_hop
    groups = chips / inside
    between = 2 * (groups - 1) / groups * size / inside / machine.slow
    return seconds + between + 2 * (groups - 1) * machine.slow_hop


def efficiency(compute: float, exchange: float) -> tuple[float, float]:
    """Returns a step's efficiency without overlap, and with the whole backward pass overlapped."""
    hidden = min(exchange, BACKWARD * compute)
    return compute / (compute + exchange), compute / (compute + exchange - hidden)


# ---- tables


def format_collectives(collectives: Collectives) -> str:
    """Returns a table's cell."""
    return "; ".join(
        f"{count} {kind}: {size:,} bytes of {', '.join(sorted(dtypes))}"
        for kind, (count, size, dtypes) in sorted(collectives.items(), reverse=True)
    )


def predicted_rows(flop: int, size: int, clips: list[int], utilization: float) -> list[str]:
    """Returns the table of assumptions and the table of predictions."""
    rows = table_header("assumed", "peak", "fast links", "of chips", "hop", "between", "hop")
    for one in MACHINES:
        links = [f"{one.fast / 1e9:.0f} GB/s", str(one.group), f"{one.fast_hop * 1e6:.1f} µs"]
        links += [f"{one.slow / 1e9:.1f} GB/s", f"{one.slow_hop * 1e6:.0f} µs"]
        rows.append(table_row([one.name, f"{one.peak / 1e12:.0f} TFLOP/s", *links]))
    rows += ["", *table_header("predicted", "", *(f"{chips} chips" for chips in CHIP_COUNTS))]
    for one in MACHINES:
        times = [exchange_seconds(one, chips, size) for chips in CHIP_COUNTS]
        cells = [f"{seconds * 1e3:.1f} ms" for seconds in times]
        rows.append(table_row([one.name, "exchange", *cells]))
        for number in clips:
            compute = number * flop / (utilization * one.peak)
            label = f"{number} clips per chip, {compute * 1e3:.1f} ms"
            pairs = [efficiency(compute, seconds) for seconds in times]
            cells = [f"{apart:.0%} to {hidden:.0%}" for apart, hidden in pairs]
            rows.append(table_row([one.name, label, *cells]))
    return rows


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses and checks the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 64, 256], help="2 or more")
    parser.add_argument(
        "--clips", type=int, nargs="+", default=[2, 12], help="per chip, for the prediction"
    )
    parser.add_argument(
        "--utilization", type=float, default=0.4, help="assumed fraction of the peak"
    )
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the script")
    arguments = parser.parse_args(argv)
    if min(arguments.devices) < 2:
        parser.error("one device has no collectives; give --devices of 2 or more")
    if min(arguments.clips) < 1 or not 0 < arguments.utilization <= 1:
        parser.error("give --clips of 1 or more and --utilization above 0 and up to 1")
    return arguments


def main(argv: list[str]) -> None:
    """Compiles the steps and prints the measurements and the prediction."""
    arguments = parse(argv)
    model = ASTConfig(dtype="bfloat16", **(TINY if arguments.tiny else SIZES["base384"]))
    packages = versions(["jax", "jaxlib", "flax", "optax"])
    print(f"{cpu_name()}, Python {platform.python_version()}, {packages}\n")
    titles = ("devices", "optimizer", "lower", "compile", "host memory", "state per device")
    print(*table_header(*titles, "lowered", "compiled"), sep="\n", flush=True)
    sizes = set()
    for devices, split in itertools.product(arguments.devices, (False, True)):
        cells = [str(devices), "sharded" if split else "replicated"]
        try:
            one = run_in_process(compile_step, model, devices, split)
        except BrokenProcessPool:
            print(
                table_row([*cells, "killed by the system for its memory use", *[""] * 5]),
                flush=True,
            )
            continue
        cells += [f"{one.lower_seconds:.1f} s", f"{one.compile_seconds:.1f} s"]
        cells += [f"{one.host_bytes / 2**20:.0f} MiB", f"{one.device_bytes / 1e6:.1f} MB"]
        cells += [format_collectives(one.lowered), format_collectives(one.compiled)]
        print(table_row(cells), flush=True)
        if not split:
            sizes.add(one.lowered["all-reduce"][1])
    if len(sizes) != 1:
        sys.exit(f"the rows differ in all-reduced bytes: {sorted(sizes)}")
    flop, (size,) = training_flop(model), sizes
    print(
        f"\nAssumed, not measured: {flop / 1e9:,.1f} GFLOP per clip at {arguments.utilization:.0%} "
        f"of the peak, {size / 1e6:.1f} MB\nall-reduced in rings. Efficiency ranges from no "
        f"overlap to an overlap with the whole backward pass.\n"
    )
    print(*predicted_rows(flop, size, arguments.clips, arguments.utilization), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
