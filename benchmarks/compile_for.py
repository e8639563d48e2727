"""Compiles the training or inference step for TPUs or GPUs that need not be there.

    python benchmarks/compile_for.py v5e:1x1 [--clips 12] [--program train] [--size base384]
        [--stride 10] [--remat norms_and_activations] [--shard-optimizer] [--patchout 0 0]
        [--on-device] [--mask-padding] [--largest] [--ops 12] [--append benchmarks/RESULTS.md]

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

where VERSION is that of jax. A training step of base384 takes 5 minutes to compile for one TPU
and 20 seconds for GPUs.
"""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Before JAX is imported. Only the CPU backend starts; compilers are asked for by name.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # asks no metadata server where there is none
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"

import jax
import jax.numpy as jnp
from chips import CHIPS
from common import append_results, versions
from compiled_report import describe
from jax.experimental import topologies
from llo import dump_flags, read_schedules
from models import forward_flop, make_extractor, training_flop

from ast_jax.checkpoint.format import Checkpoint
from ast_jax.config import TrainConfig
from ast_jax.config_files import load_config
from ast_jax.models.ast import param_shapes, round_kernels
from ast_jax.models.config import NUM_PREFIX_TOKENS, SIZES, ASTConfig
from ast_jax.models.remat import REMAT
from ast_jax.sharding import REPLICATED, SPLIT, DataParallel
from ast_jax.training.setup import RunLength, map_step_functions

CONFIG = Path(__file__).parent.parent / "configs" / "audioset_full.py"
SAMPLES = 160000  # of ten seconds
LENGTH = RunLength(steps_per_epoch=10**5, num_steps=10**6)  # changes constants in a program only


def main() -> None:
    """Compiles a program and prints its report."""
    arguments = parse(sys.argv[1:])
    generation, topology = arguments.target.split(":")
    chip, clips = CHIPS[generation], arguments.clips
    with tempfile.TemporaryDirectory() as folder:
        if chip.platform == "tpu":
            append_to_variable("LIBTPU_INIT_ARGS", dump_flags(Path(folder)))
        parallel = DataParallel(devices=make_devices(generation, topology))
        config = make_config(arguments, len(parallel.devices))
        compile_step = partial(compile_program, config, parallel, arguments.program)
        compiled = compile_step(clips)
        memory = peak_memory(compiled)
        lines = [f"peak memory: {memory:.2f} of {chip.memory} GB a chip", ""]
        flop = clips * clip_flop(config, arguments.program)
        schedules = read_schedules(Path(folder))
        lines += describe(compiled.as_text(), chip, schedules, flop, arguments.ops)
        print("\n".join(lines), flush=True)
        if arguments.largest:  # memory is linear in the clips
            half = clips // 2
            each = (memory - peak_memory(compile_step(half))) / (clips - half)
            fits = int(clips + (chip.memory - memory) / each)
            size = f"{1e3 * each:.0f} MB each (extrapolated)"
            lines += ["", f"largest batch: {fits} clips a chip, {size}"]
            print(lines[-1])
    if arguments.append:
        title = f"Compiled for {arguments.target}: {arguments.program}, {clips} clips a chip"
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
    parser.add_argument("--mask-padding", action="store_true", help="of clips of many lengths")
    parser.add_argument("--largest", action="store_true", help="find the largest batch that fits")
    parser.add_argument("--ops", type=int, default=12, help="the largest ops to list")
    parser.add_argument("--append", type=Path, help="a Markdown file")
    arguments = parser.parse_args(argv)
    generation, _, topology = arguments.target.partition(":")
    if generation not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", topology):
        parser.error(f"{arguments.target!r} is not one of {', '.join(CHIPS)} with a topology")
    if generation == "h100" and (not topology.isdigit() or int(topology) % min(int(topology), 8)):
        parser.error(f"h100:{topology}: give 1 to 8 GPUs, or nodes of 8, such as h100:64")
    if arguments.clips < 1 + arguments.largest:
        parser.error("give --clips from 1, or with --largest from 2")
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
    """Returns H100s. Replaces JAX's checks of the local GPU and cuDNN by those of an H100."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    cudnn.check_cudnn_version = lambda: 91000
    cudnn.check_compute_capability = lambda capability: float(capability) <= 9.0
    cudnn.is_cuda_compute_capability_equal = lambda capability: capability == "9.0"
    # The compiler finds no tiling for one of the products by Triton.
    append_to_variable("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=false")
    target = (Path(__file__).parent / "h100.txtpb").read_text()
    each = min(number, 8)
    return topologies.get_topology_desc(
        platform="cuda", target_config=target, topology=f"1x{number // each}x{each}"
    ).devices


def append_to_variable(name: str, flags: str) -> None:
    """Appends flags to an environment variable."""
    os.environ[name] = f"{os.environ.get(name, '')} {flags}".strip()


def make_config(arguments: argparse.Namespace, devices: int) -> TrainConfig:
    """Returns AudioSet's recipe with the options of the command line."""
    fields: dict[str, Any] = dict(SIZES[arguments.size])
    if arguments.layers:
        fields["num_hidden_layers"] = arguments.layers
    strides = {"frequency_stride": arguments.stride, "time_stride": arguments.stride}
    config = load_config(CONFIG)
    config.model = ASTConfig(
        **fields, **strides, dtype="bfloat16", mask_padding=arguments.mask_padding
    )
    config.remat = arguments.remat
    config.shard_optimizer = arguments.shard_optimizer and devices > 1
    config.augment.patchout_frequency, config.augment.patchout_time = arguments.patchout
    config.frontend.on_device = arguments.on_device
    return config


def compile_program(config: TrainConfig, parallel: DataParallel, program: str, clips: int) -> Any:
    """Compiles a program from the shapes of its arguments; the devices need not be there.

    Args:
        config: the run's configuration.
        parallel: the devices.
        program: 'train' for the training step, 'predict' for logits.
        clips: the number of clips a device.
    """
    model, rows = config.model, clips * len(parallel.devices)
    params = param_shapes(model)
    initial = Checkpoint(model, make_extractor(model), params)
    functions = map_step_functions(config, initial, parallel, LENGTH)
    if config.frontend.on_device:
        batch = {"waveforms": ((rows, SAMPLES), jnp.int16), "lengths": ((rows,), jnp.int32)}
    else:
        inputs = (rows, model.max_length, model.num_mel_bins)
        batch = {"input_values": (inputs, jnp.float32)}
    if model.mask_padding:
        batch["num_frames"] = ((rows,), jnp.int32)
    if program == "train":
        batch["targets"] = ((rows, model.num_labels), jnp.float32)
        function = functions.train_step
        first = jax.eval_shape(functions.init_state, params), functions.state_specs
    else:
        rounded = jax.eval_shape(partial(round_kernels, model), params)
        function, first = functions.predict, (rounded, REPLICATED)
    shapes = {name: jax.ShapeDtypeStruct(*each) for name, each in batch.items()}
    arguments = [
        jax.tree.map(lambda x, s: x.update(sharding=s), tree, parallel.shardings(tree, specs))
        for tree, specs in (first, (shapes, SPLIT))
    ]
    return function.lower(*arguments).compile()


def clip_flop(config: TrainConfig, program: str) -> int:
    """Returns the FLOP of a clip's products, in training those of the patches that are kept."""
    if program == "predict":
        return forward_flop(config.model)
    rows, columns = config.model.grid
    rows -= config.augment.patchout_frequency
    columns -= config.augment.patchout_time
    return training_flop(config.model, rows * columns + NUM_PREFIX_TOKENS)


def peak_memory(compiled: Any) -> float:
    """Returns the memory that a program needs on a device, in GB."""
    return compiled.memory_analysis().peak_memory_in_bytes / 1e9


if __name__ == "__main__":
    main()
