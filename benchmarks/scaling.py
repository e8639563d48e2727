"""What training on many chips costs: compiled for virtual devices, and predicted on paper.

    python benchmarks/scaling.py [--devices 8 64 256] [--clips 2 12] [--utilization .4] [--tiny]

needs neither a GPU, TensorFlow nor a sound library. Two parts, of which only the first is measured:

- The training step (AudioSet's recipe in bfloat16, its augmentation left out) is compiled for so
  many virtual CPU devices, from shapes alone, in a process of its own: with the optimizer's state
  whole on every device, and split over them (ZeRO-1, `shard_optimizer`). The HLO tells what devices
  exchange in a step: as the program asks for it, and compiled. The latter is the backend's matter:
  the CPU's joins all-reduces and widens them to float32, those of GPUs and TPUs join up to a size.
- From the bytes asked for and what `MACHINES` assumes follows how efficient a step would be where
  each chip takes as many clips as one alone (weak scaling). Nothing of that was run, and it says
  nothing of what so large a batch learns.
"""

import argparse
import itertools
import math
import platform
import re
import resource
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common import cpu, table_head, table_row, versions
from contest import alone
from models import TINY, training_flop

sys.path.insert(0, str(Path(__file__).parent.parent))

from ast_jax.models.config import SIZES, ASTConfig

CONFIG = Path(__file__).parent.parent / "configs" / "audioset_full.py"
CHIPS = (8, 16, 32, 64, 128, 256, 512, 1024)
BACKWARD = 2 / 3  # of a step: two of its three matrix products


class Machine(NamedTuple):
    """What is assumed of a machine: makers' figures, and guesses at what they do not publish.

    Bandwidths are what one chip sends, bytes/s, in one direction.

    Attributes:
        name: of the chip.
        peak: bfloat16 FLOP/s of a chip, dense.
        group: chips that the fast links join.
        axes: of the torus that these make, 1 for one ring.
        closed: chips from which on the torus is closed; below, a row's links make one ring and
            not two, which halves the bandwidth.
        fast: bandwidth inside a group.
        fast_hop: seconds from chip to chip there.
        slow: bandwidth between groups.
        slow_hop: seconds from group to group.
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
    # NVIDIA's data sheet (DGX H100): NVLink 900 GB/s both ways, eight 400 Gb/s InfiniBand ports for
    # eight GPUs. Hops: what NCCL's source assumes of its rings to choose an algorithm by.
    Machine("H100", 989e12, 8, 1, 1, 450e9, 3.4e-6, 50e9, 14e-6),
    # Google's TPU documentation: four links of 400 Gb/s, pods of 256 chips with 6.4 Tb/s between
    # pods; an axis of 16 is closed. Hops are guesses.
    Machine("TPU v5e", 197e12, 256, 2, 256, 200e9, 1e-6, 3.1e9, 50e-6),
    # The same: 4,800 Gb/s in six links, closed from 4 x 4 x 4 on, slices of up to 6,144 chips,
    # 50 Gb/s a chip between slices, which no row of the table needs.
    Machine("TPU v5p", 459e12, 6144, 3, 64, 600e9, 1e-6, 6.2e9, 50e-6),
)


Exchanged = dict[str, tuple[int, int, set[str]]]


class Measured(NamedTuple):
    """What compiling for a number of devices told.

    Attributes:
        lower: seconds to trace the step and lower it.
        compile: seconds to compile it.
        host: the most bytes the process held.
        device: bytes of a device's state and batch.
        asked: for each kind of collective how many the program has, the bytes of their whole
            arrays (reduced, gathered, or before they are scattered) and the arrays' dtypes.
        compiled: the same of what the compiler made of them.
    """

    lower: float
    compile: float
    host: int
    device: int
    asked: Exchanged
    compiled: Exchanged


# ---- in a process of their own


def compile_step(model: ASTConfig, devices: int, split: bool) -> Measured:
    """Compiles the step for virtual devices, as `build_step_functions` does.

    That one lays the state out on the devices; here no array is made. Each has two clips: of one
    alone a CPU's program is another.
    """
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding

    from ast_jax.audio.feature_extractor import ASTFeatureExtractor
    from ast_jax.config import load_config
    from ast_jax.losses import binary_cross_entropy
    from ast_jax.models.ast import graphdef, param_shapes
    from ast_jax.sharding import REPLICATED, SPLIT, DataParallel
    from ast_jax.training.optimizer import make_optimizer, make_schedule, state_specs
    from ast_jax.training.step import StepSpec, init_state, train_step

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_enable_compilation_cache", False)  # the time is to be that of compiling
    config = load_config(CONFIG)
    optimizer = make_optimizer(config.optimizer, devices if split else 1)
    # Augmenting takes no exchange. A schedule's course is a constant or two in the program.
    spec = StepSpec(
        graphdef(model),
        ASTFeatureExtractor(max_length=model.max_length, num_mel_bins=model.num_mel_bins),
        binary_cross_entropy,
        optimizer,
        make_schedule(config.optimizer, num_steps=10**6, epoch_steps=10**5),
        jax.random.key(0),
    )

    state = jax.eval_shape(
        partial(init_state, optimizer=optimizer, ema=False, average=True), param_shapes(model)
    )
    specs = jax.tree.map(lambda _: REPLICATED, state)
    if split:
        specs = specs._replace(opt_state=state_specs(state.opt_state, devices))
    shapes = {
        "input_values": (2 * devices, model.max_length, model.num_mel_bins),
        "targets": (2 * devices, model.num_labels),
    }
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    parallel = DataParallel()
    mapped = parallel.map(
        partial(train_step, spec), (specs, SPLIT), (specs, REPLICATED), donate=(0,)
    )
    laid_out = jax.tree.map(
        lambda x, spec: x.update(sharding=NamedSharding(parallel.mesh, spec)),
        (state, batch),
        (specs, dict.fromkeys(batch, SPLIT)),
    )
    start = time.perf_counter()
    lowered = mapped.lower(*laid_out)
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    program = compiled.as_text()
    check_counted(program)
    return Measured(
        middle - start,
        end - middle,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # Linux counts in KiB
        compiled.memory_analysis().argument_size_in_bytes,
        collectives(lowered.as_text(dialect="hlo"), devices),
        collectives(program, devices),
    )


EXCHANGE = re.compile(r" = (.+?) (all-reduce|all-gather|reduce-scatter)(?:-start)?\(")
ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")


def check_counted(hlo: str) -> None:
    """Ends where a compiled program's collectives do not run once, or are not whole.

    The one branch that exchanges something, which updates the parameters, runs in every step whose
    loss is finite.
    """
    before, _, program = hlo.partition("\nENTRY ")
    for branches in re.findall(r"branch_computations=\{(.*?)\}", program):
        for name in branches.split(", "):
            before = re.sub(rf"^{re.escape(name)} .*?^}}", "", before, flags=re.M | re.S)
    if EXCHANGE.search(before) or re.search("(all-gather|reduce-scatter)-start", program):
        sys.exit("devices exchange something in a loop or in two halves; its bytes are not known")


def collectives(hlo: str, devices: int) -> Exchanged:
    """What devices exchange in a program, see `Measured.asked`."""
    found: Exchanged = {}
    for result, kind in EXCHANGE.findall(hlo):
        count, size, dtypes = found.get(kind, (0, 0, set()))
        for dtype, shape in ARRAY.findall(result):
            bits = int(re.search(r"\d+|$", dtype)[0] or 8)  # a pred takes a byte
            whole = devices if kind == "reduce-scatter" else 1
            size += whole * bits // 8 * math.prod(int(n) for n in shape.split(",") if n)
            dtypes |= {dtype}
        found[kind] = count + 1, size, dtypes
    return found


# ---- on paper


def exchange_seconds(machine: Machine, chips: int, size: float) -> float:
    """Of an all-reduce of so many bytes in rings: inside the groups, then between them.

    Between groups a chip exchanges the part that it has the sum of.
    """
    inside = min(chips, machine.group)
    bandwidth = machine.fast if inside >= machine.closed else machine.fast / 2
    hops = 2 * machine.axes * (inside ** (1 / machine.axes) - 1)
    seconds = 2 * (inside - 1) / inside * size / bandwidth + hops * machine.fast_hop
    groups = chips / inside
    between = 2 * (groups - 1) / groups * size / inside / machine.slow
    return seconds + between + 2 * (groups - 1) * machine.slow_hop


def efficiency(compute: float, exchange: float) -> tuple[float, float]:
    """Of a step: if nothing overlaps, and if all of the backward pass hides the exchange."""
    hidden = min(exchange, BACKWARD * compute)
    return compute / (compute + exchange), compute / (compute + exchange - hidden)


# ---- tables


def in_words(exchanged: Exchanged) -> str:
    """A table's cell."""
    return "; ".join(
        f"{count} {kind}: {size:,} bytes of {', '.join(sorted(dtypes))}"
        for kind, (count, size, dtypes) in sorted(exchanged.items(), reverse=True)
    )


def predicted_rows(flop: int, size: int, clips: list[int], utilization: float) -> list[str]:
    """The assumptions, and the table of what follows from them."""
    rows = table_head("assumed", "peak", "fast links", "of chips", "hop", "between", "hop")
    for one in MACHINES:
        links = [f"{one.fast / 1e9:.0f} GB/s", str(one.group), f"{one.fast_hop * 1e6:.1f} µs"]
        links += [f"{one.slow / 1e9:.1f} GB/s", f"{one.slow_hop * 1e6:.0f} µs"]
        rows.append(table_row([one.name, f"{one.peak / 1e12:.0f} TFLOP/s", *links]))
    rows += ["", *table_head("predicted", "", *(f"{chips} chips" for chips in CHIPS))]
    for one in MACHINES:
        times = [exchange_seconds(one, chips, size) for chips in CHIPS]
        cells = [f"{seconds * 1e3:.1f} ms" for seconds in times]
        rows.append(table_row([one.name, "exchange", *cells]))
        for number in clips:
            compute = number * flop / (utilization * one.peak)
            label = f"{number} clips a chip, {compute * 1e3:.1f} ms"
            pairs = [efficiency(compute, seconds) for seconds in times]
            cells = [f"{apart:.0%} to {hidden:.0%}" for apart, hidden in pairs]
            rows.append(table_row([one.name, label, *cells]))
    return rows


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 64, 256], help="2 or more")
    parser.add_argument("--clips", type=int, nargs="+", default=[2, 12], help="a chip, to predict")
    parser.add_argument("--utilization", type=float, default=0.4, help="assumed share of the peak")
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the script")
    arguments = parser.parse_args(argv)
    if min(arguments.devices) < 2:
        parser.error("one device exchanges nothing; give --devices of 2 or more")
    if min(arguments.clips) < 1 or not 0 < arguments.utilization <= 1:
        parser.error("give --clips of 1 or more and a --utilization above 0, up to 1")
    return arguments


def main(argv: list[str]) -> None:
    """Compiles, and prints what was measured and what follows."""
    arguments = parse(argv)
    model = ASTConfig(dtype="bfloat16", **(TINY if arguments.tiny else SIZES["base384"]))
    said = versions(["jax", "jaxlib", "flax", "optax"])
    print(f"{cpu()}, Python {platform.python_version()}, {said}\n")
    titles = ("devices", "optimizer", "lower", "compile", "host memory", "state of a device")
    print(*table_head(*titles, "asked for in a step", "compiled"), sep="\n", flush=True)
    sizes = set()
    for devices, split in itertools.product(arguments.devices, (False, True)):
        cells = [str(devices), "split" if split else "whole"]
        try:
            one = alone(compile_step, model, devices, split)
        except BrokenProcessPool:
            print(table_row([*cells, "killed by the system, for memory", *[""] * 5]), flush=True)
            continue
        cells += [f"{one.lower:.1f} s", f"{one.compile:.1f} s", f"{one.host / 2**20:.0f} MiB"]
        cells += [f"{one.device / 1e6:.1f} MB", in_words(one.asked), in_words(one.compiled)]
        print(table_row(cells), flush=True)
        sizes.add(one.asked["all-reduce"][1])
    if len(sizes) != 1:
        sys.exit(f"the bytes all-reduced are not one number but {sorted(sizes)}")
    flop, (size,) = training_flop(model), sizes
    print(
        f"\nAssumed, not measured: {flop / 1e9:,.1f} GFLOP a clip at {arguments.utilization:.0%} "
        f"of the peak, {size / 1e6:.1f} MB\nall-reduced in rings. Efficiency is from nothing "
        f"overlapped to all of the backward pass.\n"
    )
    print(*predicted_rows(flop, size, arguments.clips, arguments.utilization), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
