"""Compiles the training or inference step for TPUs or GPUs that need not be there.

    python benchmarks/compile_for.py v5e:1x1 [--clips 12] [--program train] [--size base384]
        [--stride 10] [--remat norms_and_activations] [--shard-optimizer] [--patchout 0 0]
        [--on-device] [--largest] [--ops 12] [--append benchmarks/RESULTS.md]

Targets are slices of TPU v4, v5e, v5p and v6e, such as v5e:16x16, and H100s, such as h100:64. The
programs are those that `train.py` and `ast-jax evaluate` run, in bfloat16. Prints the peak memory
of a chip, with --largest the largest batch that fits it, the products in float32, and the
exchanges between chips. For TPUs also times by the compiler's own account: by group of ops, the
largest ops, and a floor, the larger of the schedule's clocks and the memory traffic of each op.

Nothing runs: the times are predictions. On a product of two 8192 x 8192 bfloat16 matrices the
estimate comes to 88 % of a v5e's peak, on elementwise bfloat16 ops to twice what the memory allows:
it ranks variants of a program. Exchanges between chips have no estimate.

TPUs need the extra `tpu`. H100s need an environment without it, with the compiler's plug-ins:

    pip install -e . && pip install --no-deps jax-cuda12-pjrt==VERSION jax-cuda12-plugin==VERSION

where VERSION is that of jax. A training step of base384 takes 2 to 3 minutes to compile for TPUs,
and 20 seconds for GPUs.
"""

import argparse
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Before JAX is imported. Only the CPU backend starts; compilers are asked for by name.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # asks no metadata server where there is none
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"

import jax
import jax.numpy as jnp
from common import append_results, table_header, table_row, versions
from hlo import Execution, Program, is_collective, type_bytes
from jax.experimental import topologies
from jax.sharding import NamedSharding
from llo import Schedule, dump_flags, read_schedules
from models import forward_flop, make_extractor, training_flop

from ast_jax.config import TrainConfig, load_config
from ast_jax.models.ast import param_shapes
from ast_jax.models.config import SIZES, ASTConfig
from ast_jax.models.remat import REMAT
from ast_jax.sharding import REPLICATED, SPLIT, DataParallel
from ast_jax.training.setup import RunLength, StepFunctions, map_step_functions

ROOT = Path(__file__).parent.parent


class Chip(NamedTuple):
    """Published figures of an accelerator.

    Attributes:
        platform: JAX's name of it.
        memory: GB.
        peak: bfloat16 FLOP/s.
        bandwidth: of the memory, bytes/s.
        clock: Hz; those of v5p and v6e are inferred from their peaks.
        cores: that share a chip's work.
        matmul_clocks: between two instructions to a matrix unit.
    """

    platform: str
    memory: float
    peak: float
    bandwidth: float
    clock: float = 0.0
    cores: int = 1
    matmul_clocks: int = 0


CHIPS = {
    "v4": Chip("tpu", 32, 275e12, 1228e9, 1.05e9, 2, 4),
    "v5e": Chip("tpu", 16, 197e12, 819e9, 1.5e9, 1, 4),
    "v5p": Chip("tpu", 95, 459e12, 2765e9, 1.75e9, 2, 4),
    "v6e": Chip("tpu", 32, 918e12, 1640e9, 1.75e9),
    "h100": Chip("cuda", 80, 989e12, 3350e9),
}

# Steps of a kernel's grid of which one computes: static schedules count them all.
IDLE_STEPS = {"attention_backward": 3}

MOVES = {"copy", "transpose", "reshape", "pad", "slice", "concatenate", "bitcast", "reverse"} | {
    f"dynamic-{name}" for name in ("slice", "update-slice")
}
NO_WORK = {"parameter", "constant", "tuple", "get-tuple-element", "broadcast", "iota", "convert"}
GROUPS = ("attention", "products", "norms and activations", "copies", "other")


def main() -> None:
    """Compiles as the command line says, and prints."""
    arguments = parse(sys.argv[1:])
    generation, topology = arguments.target.split(":")
    chip = CHIPS[generation]
    with tempfile.TemporaryDirectory() as folder:
        if chip.platform == "tpu":
            os.environ["LIBTPU_INIT_ARGS"] = " ".join(
                [os.environ.get("LIBTPU_INIT_ARGS", ""), dump_flags(Path(folder))]
            )
        devices = make_devices(generation, topology)
        config, functions, parallel = make_program(arguments, devices)
        compiled = compile_program(arguments, config, functions, parallel, arguments.clips)
        lines = report(compiled, arguments, config.model, chip, read_schedules(Path(folder)))
        print("\n".join(lines), flush=True)
        if arguments.largest:
            print(largest_batch(compiled, arguments, config, functions, parallel, chip))
    if arguments.append:
        title = (
            f"Compiled for {arguments.target}: {arguments.program}, {arguments.clips} clips a chip"
        )
        packages = ["jax", "libtpu" if chip.platform == "tpu" else "jax-cuda12-plugin"]
        append_results(arguments.append, title, ["python", *sys.argv], versions(packages), lines)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses and checks the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", help="GENERATION:TOPOLOGY, such as v5e:2x2 or h100:8")
    parser.add_argument("--program", choices=["train", "predict"], default="train")
    parser.add_argument("--clips", type=int, default=12, help="a chip takes at a time")
    parser.add_argument("--size", choices=SIZES, default="base384")
    parser.add_argument("--layers", type=int, help="instead of the size's")
    parser.add_argument("--stride", type=int, default=10, help="of patches, in both directions")
    parser.add_argument("--remat", choices=REMAT, default="norms_and_activations")
    parser.add_argument("--shard-optimizer", action="store_true", help="ZeRO-1")
    parser.add_argument(
        "--patchout", type=int, nargs=2, default=(0, 0), metavar=("ROWS", "COLUMNS")
    )
    parser.add_argument("--on-device", action="store_true", help="compute log-mels there")
    parser.add_argument("--largest", action="store_true", help="find the largest batch that fits")
    parser.add_argument("--ops", type=int, default=12, help="the largest ops to list")
    parser.add_argument("--append", type=Path, help="a Markdown file")
    arguments = parser.parse_args(argv)
    generation, _, topology = arguments.target.partition(":")
    if generation not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", topology):
        parser.error(f"{arguments.target!r} is not one of {', '.join(CHIPS)} with a topology")
    if arguments.clips < 1:
        parser.error("give --clips from 1")
    return arguments


def make_devices(generation: str, topology: str) -> list[Any]:
    """Returns the devices of a slice or of nodes with eight GPUs, without any of them.

    Raises:
        RuntimeError: the compiler for the platform is not installed.
    """
    if generation == "h100":
        return make_gpus(int(topology))
    options = {}
    if set(topology.split("x")) == {"1"}:  # no host has a single chip by default
        options["chips_per_host_bounds"] = [1, 1, 1]
    name = f"{generation}:{topology}"
    return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices


def make_gpus(number: int) -> list[Any]:
    """Returns H100s, and has JAX's checks of cuDNN and of the GPU look at these."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    cudnn.check_cudnn_version = lambda: 91000
    cudnn.check_compute_capability = lambda capability: float(capability) <= 9.0
    cudnn.is_cuda_compute_capability_equal = lambda capability: capability == "9.0"
    # The compiler finds no tiling for one of the products by Triton.
    os.environ["XLA_FLAGS"] = " ".join(
        [os.environ.get("XLA_FLAGS", ""), "--xla_gpu_enable_triton_gemm=false"]
    )
    target = (Path(__file__).parent / "h100.txtpb").read_text()
    each = min(number, 8)
    return topologies.get_topology_desc(
        platform="cuda", target_config=target, topology=f"1x{number // each}x{each}"
    ).devices


def make_program(
    arguments: argparse.Namespace, devices: Sequence[Any]
) -> tuple[TrainConfig, StepFunctions, DataParallel]:
    """Returns AudioSet's recipe for the devices, its step functions, and the devices."""
    config = load_config(ROOT / "configs" / "audioset_full.py")
    fields = dict(SIZES[arguments.size])
    if arguments.layers:
        fields["num_hidden_layers"] = arguments.layers
    config.model = ASTConfig(
        **fields,
        dtype="bfloat16",
        frequency_stride=arguments.stride,
        time_stride=arguments.stride,
    )
    config.batch_size = arguments.clips * len(devices)
    config.remat = arguments.remat
    config.shard_optimizer = arguments.shard_optimizer and len(devices) > 1
    config.augment.patchout_frequency, config.augment.patchout_time = arguments.patchout
    parallel = DataParallel(devices=devices)
    extractor = make_extractor(config.model)
    length = RunLength(steps_per_epoch=10**5, num_steps=10**6)
    functions = map_step_functions(config, config.model, extractor, parallel, length)
    return config, functions, parallel


def compile_program(
    arguments: argparse.Namespace,
    config: TrainConfig,
    functions: StepFunctions,
    parallel: DataParallel,
    clips: int,
) -> Any:
    """Compiles a step for `clips` clips on each device."""
    model, rows = config.model, clips * len(parallel.devices)
    if arguments.on_device:
        batch = {"waveforms": ((rows, 160000), jnp.int16), "lengths": ((rows,), jnp.int32)}
    else:
        shape = (rows, model.max_length, model.num_mel_bins)
        batch = {"input_values": (shape, jnp.float32)}

    def arrays(shapes: Any, specs: Any) -> Any:
        return jax.tree.map(
            lambda x, spec: x.update(sharding=NamedSharding(parallel.mesh, spec)), shapes, specs
        )

    if arguments.program == "train":
        batch["targets"] = ((rows, model.num_labels), jnp.float32)
        state = jax.eval_shape(functions.init_state, param_shapes(model))
        first, function = arrays(state, functions.state_specs), functions.train_step
    else:
        params = param_shapes(model)
        first = arrays(params, jax.tree.map(lambda _: REPLICATED, params))
        function = functions.predict
    shapes = {name: jax.ShapeDtypeStruct(*each) for name, each in batch.items()}
    return function.lower(first, arrays(shapes, dict.fromkeys(batch, SPLIT))).compile()


def report(
    compiled: Any,
    arguments: argparse.Namespace,
    model: ASTConfig,
    chip: Chip,
    schedules: dict[str, Schedule],
) -> list[str]:
    """Returns the lines that describe a compiled step."""
    program = Program(compiled.as_text())
    executions = list(program.executions())
    lines = [f"peak memory: {peak_memory(compiled):.2f} of {chip.memory} GB a chip", ""]
    if chip.platform == "tpu":
        flop = training_flop if arguments.program == "train" else forward_flop
        lines += time_tables(
            program, executions, chip, schedules, flop(model) * arguments.clips, arguments.ops
        )
    else:
        lines += custom_call_table(executions)
    return [*lines, "", *float32_products(program, executions), "", *collectives(executions)]


def peak_memory(compiled: Any) -> float:
    """Returns the memory that a program needs on a device, in GB."""
    return compiled.memory_analysis().peak_memory_in_bytes / 1e9


def largest_batch(
    compiled: Any,
    arguments: argparse.Namespace,
    config: TrainConfig,
    functions: StepFunctions,
    parallel: DataParallel,
    chip: Chip,
) -> str:
    """Finds the largest batch from two compilations: memory is linear in the clips."""
    half = max(1, arguments.clips // 2)
    less = peak_memory(compile_program(arguments, config, functions, parallel, half))
    per_clip = (peak_memory(compiled) - less) / (arguments.clips - half)
    fits = int(arguments.clips + (chip.memory - peak_memory(compiled)) / per_clip)
    return f"largest batch: {fits} clips a chip, {1e3 * per_clip:.0f} MB each (extrapolated)"


class Op(NamedTuple):
    """An execution with its predicted times over a whole step, in seconds.

    Attributes:
        execution: of the op.
        group: of `GROUPS`.
        estimate: the compiler's, or the schedule's for a Pallas kernel.
        floor: the larger of schedule and memory traffic.
    """

    execution: Execution
    group: str
    estimate: float
    floor: float


def time_tables(
    program: Program,
    executions: list[Execution],
    chip: Chip,
    schedules: dict[str, Schedule],
    flop: float,
    number: int,
) -> list[str]:
    """Returns tables of predicted times by group and of the largest ops."""
    ops = [predict_times(program, each, chip, schedules) for each in executions]
    total = sum(op.estimate for op in ops)
    lines = table_header("group", "estimate, ms", "floor, ms")
    for group in GROUPS:
        own = [op for op in ops if op.group == group]
        lines.append(table_row([group, *_milliseconds(own)]))
    lines.append(table_row(["all", *_milliseconds(ops)]))
    lines += ["", f"by the estimate {flop / total / chip.peak:.0%} of the peak", ""]
    lines += table_header("largest ops", "estimate, ms", "floor, ms", "times", "group", "computes")
    for op in sorted(ops, key=lambda op: -op.estimate)[:number]:
        instruction = op.execution.instruction
        computes = "/".join(instruction.op_name.split("/")[-2:])
        lines.append(
            table_row(
                [
                    instruction.name,
                    *_milliseconds([op]),
                    str(op.execution.times),
                    op.group,
                    f"{computes} {re.sub(r'{[^}]*}', '', instruction.result)[:60]}",
                ]
            )
        )
    return lines


def _milliseconds(ops: list[Op]) -> list[str]:
    return [
        f"{1e3 * sum(op.estimate for op in ops):.2f}",
        f"{1e3 * sum(op.floor for op in ops):.2f}",
    ]


def predict_times(
    program: Program, execution: Execution, chip: Chip, schedules: dict[str, Schedule]
) -> Op:
    """Predicts how long an op takes on a TPU."""
    instruction = execution.instruction
    schedule = schedules.get(instruction.name, Schedule(0, 0))
    scheduled = max(schedule.bundles, chip.matmul_clocks * schedule.matmuls) / chip.clock
    if instruction.opcode == "custom-call":  # a kernel of ours, on all cores
        idle = [n for name, n in IDLE_STEPS.items() if name in instruction.name]
        scheduled /= chip.cores * (idle[0] if idle else 1)
    cycles = instruction.estimated_cycles
    estimate = scheduled if cycles is None else cycles / chip.clock
    traffic = 0.0 if is_collective(execution) else program.hbm_bytes(execution) / chip.bandwidth
    return Op(
        execution,
        group_of(program, execution),
        execution.times * estimate,
        execution.times * max(scheduled, traffic),
    )


def group_of(program: Program, execution: Execution) -> str:
    """Returns the group of `GROUPS` that an op belongs to, by its names and what is fused in it."""
    instruction = execution.instruction
    if "attention" in f"{instruction.name}{instruction.op_name}":
        return "attention"
    opcodes = {part.opcode for part in program.fused(instruction)} - NO_WORK
    if opcodes & {"convolution", "dot"}:
        return "products"
    if opcodes <= MOVES or instruction.opcode.startswith("copy"):
        return "copies"
    return "norms and activations" if execution.loops else "other"


def custom_call_table(executions: list[Execution]) -> list[str]:
    """Returns a table of the calls into libraries."""
    calls = Counter()
    for execution in executions:
        text = execution.instruction.text
        if found := re.search(r'custom_call_target="([^"]*)"', text):
            calls[found[1]] += execution.times
    lines = table_header("library calls", "a step")
    return lines + [table_row([name, str(number)]) for name, number in calls.most_common()]


def float32_products(program: Program, executions: list[Execution]) -> list[str]:
    """Returns a table of the products that multiply float32."""
    found = Counter()
    for execution in executions:
        for part in program.fused(execution.instruction):
            types = program.operand_types(part)[:2]
            multiplies = part.opcode in ("dot", "convolution") or "$matmul" in part.text
            if multiplies and any(each.startswith("f32") for each in types):
                result = re.sub(r"{[^}]*}", "", part.result)
                found[f"{' · '.join(types)} → {result}"] += execution.times
    lines = table_header("float32 products", "a step")
    return lines + [table_row([name, str(number)]) for name, number in found.most_common()]


def collectives(executions: list[Execution]) -> list[str]:
    """Returns a table of the exchanges between chips."""
    lines = table_header("exchange", "MB", "times", "how", "where")
    for execution in filter(is_collective, executions):
        instruction = execution.instruction
        asynchronous = instruction.opcode.endswith("-start") or "async" in instruction.name
        lines.append(
            table_row(
                [
                    instruction.opcode.removesuffix("-start"),
                    f"{type_bytes(instruction.result) / 1e6:.1f}",
                    str(execution.times),
                    "asynchronous" if asynchronous else "synchronous",
                    "in a loop" if execution.loops else "after the loops",
                ]
            )
        )
    return lines


if __name__ == "__main__":
    main()
