"""Times the training step beside Hugging Face's AST in PyTorch, on one GPU or CPU.

    python benchmarks/training.py [--size base384] [--batches 1 4 16] [--tiny]
        [--append benchmarks/RESULTS.md]

needs torch and transformers (the extra `test`), and neither TensorFlow nor a sound library. All
start from the same random weights and take the same batch, which is on the device already; the
first step's losses are compared before anything is timed. The peers:

- eager: attention as the original has it; on a GPU its fp16 autocast and GradScaler.
- SDPA: fused attention, autocast to bfloat16, fused Adam, on a GPU torch.compile as well.

With --dtype float32, and for eager on any CPU, nothing is cast.

A round takes a few steps of each in turn, waits for the last, and nothing else; ratios are
medians of the rounds' ratios. Every batch size has a process of its own. A contender that runs
out of memory beside the others is tried again alone; its rounds are then no longer the others'.

FLOP are those of the matrix products of one pass forward, times three, of the paper's model; what a
step computes anew to save memory does not count, nor what ours saves in the last layer. The matrix
rate is the best that JAX or PyTorch reaches on one large product in --dtype.
"""

import argparse
import contextlib
import datetime
import gc
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

# Two frameworks share a GPU: JAX takes memory as it needs it, and may have as much as PyTorch.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", ".95")

import numpy as np
from common import cpu, versions

sys.path.insert(0, str(Path(__file__).parent.parent))

# torch and transformers are imported where they are used: this process only starts others and
# must hold none of the GPU's memory.
from ast_jax.models.config import SIZES, ASTConfig

TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 128,
    "max_length": 128,
}
NAMES = ("ours", "SDPA", "eager")  # the hungriest last: it is the one to run out of memory
LEARNING_RATE = 1e-5
WARM_UP = 2  # steps after the first
# Relative, of losses. On a GPU both frameworks multiply float32 as TF32.
TOLERANCE = {"float32": 1e-4, "tf32": 1e-3, "bfloat16": 2e-2}


class Device(NamedTuple):
    """What everything runs on.

    Attributes:
        kind: 'cuda' or 'cpu'.
        name: what it says of itself, and the versions.
        rate: FLOP/s of a large matrix product.
    """

    kind: str
    name: str
    rate: float


class Contender(NamedTuple):
    """A model in training.

    Attributes:
        run: takes so many steps, waits for the last and returns its loss.
        label: what the table calls it.
        peak: the most bytes it held on a GPU so far, or None.
    """

    run: Callable[[int], float]
    label: str
    peak: Callable[[], int | None]


class Measured(NamedTuple):
    """What was found of a contender.

    Attributes:
        label: what the table calls it.
        loss: of the first step, or None if there was none.
        seconds: of a step, by round; None if it did not run.
        peak: bytes, on a GPU.
        remark: why it did not run, or how it ran.
    """

    label: str
    loss: float | None = None
    seconds: np.ndarray | None = None
    peak: int | None = None
    remark: str = ""


# ---- in a process of their own: everything that touches the device


def describe(arguments: argparse.Namespace) -> Device:
    """The device, and the rate of its matrix products."""
    import jax
    import torch

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    if (kind == "cuda") != (jax.default_backend() == "gpu"):
        sys.exit(f"PyTorch computes on {kind} and JAX on {jax.default_backend()}: install both for")
    said = f"Python {platform.python_version()}, "
    said += versions(["jax", "jaxlib", "flax", "optax", "torch", "transformers"])
    if kind == "cuda":
        name = torch.cuda.get_device_name(0)
        said += f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    else:
        name = f"{cpu()}, {torch.get_num_threads()} threads"
    size = 256 if arguments.tiny else 8192 if kind == "cuda" else 2048
    dtype = resolve_dtype(arguments, kind)
    return Device(kind, f"{name}; {said}", matrix_rate(kind, dtype, size))


def matrix_rate(kind: str, dtype: str, size: int, products: int = 5, rounds: int = 12) -> float:
    """FLOP/s of products of two square matrices: JAX's or PyTorch's, the fastest round's."""
    import jax
    import jax.numpy as jnp
    import torch

    torch_precision(kind)
    values = np.random.default_rng(0).standard_normal((2, size, size), dtype=np.float32)
    left, right = jnp.asarray(values, dtype)
    jax_product = jax.jit(jnp.matmul)
    torch_left, torch_right = torch.from_numpy(values).to(kind, getattr(torch, dtype))

    def by_jax() -> None:
        jax.block_until_ready([jax_product(left, right) for _ in range(products)])

    def by_torch() -> None:
        for _ in range(products):
            torch.matmul(torch_left, torch_right)
        wait_for_torch(kind)

    times = np.empty((rounds + 1, 2))
    for i in range(rounds + 1):
        for j, multiply in enumerate((by_jax, by_torch)):
            start = time.perf_counter()
            multiply()
            times[i, j] = time.perf_counter() - start
    return products * 2 * size**3 / times[1:].min()


def measure(
    names: tuple[str, ...],
    batch_size: int,
    arguments: argparse.Namespace,
    kind: str,
    expected: float | None = None,
) -> dict[str, Measured]:
    """Checks that the contenders' first losses agree, and times them in turn.

    Args:
        names: of `NAMES`.
        batch_size: clips.
        arguments: the command line's.
        kind: 'cuda' or 'cpu'.
        expected: the first loss, if another process knows it.
    """
    torch_precision(kind)
    dtype = resolve_dtype(arguments, kind)
    config, weights, params = make_weights(model_fields(arguments))
    batch = make_batch(config, batch_size)
    found, contenders = {}, {}
    for name in names:
        try:
            if name == "ours":
                contender = ours(config.replace(dtype=dtype), params, batch, arguments.remat)
                loss = contender.run(1)
            else:
                contender, loss = peer(name, weights, batch, arguments, kind)
            contender.run(WARM_UP)
            contenders[name] = contender
            found[name] = Measured(contender.label, loss, peak=contender.peak())
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            found[name] = Measured(label(name, arguments, kind), remark="out of memory")
        contender = None  # of one that failed nothing stays in memory
        clean_up()

    tolerance = TOLERANCE["tf32" if (dtype, kind) == ("float32", "cuda") else dtype]
    for name in contenders:
        loss = found[name].loss
        expected = loss if expected is None else expected
        assert abs(loss - expected) <= tolerance * expected, (
            f"{found[name].label}: the first loss is {loss}, not {expected}"
        )

    try:
        seconds = time_rounds(contenders, arguments)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return {name: one._replace(remark="out of memory") for name, one in found.items()}
    return found | {name: found[name]._replace(seconds=seconds[name]) for name in contenders}


def time_rounds(
    contenders: dict[str, Contender], arguments: argparse.Namespace
) -> dict[str, np.ndarray]:
    """Seconds of a step, by round."""
    seconds = {name: np.empty(arguments.rounds) for name in contenders}
    for i in range(arguments.rounds):
        for name, contender in contenders.items():
            start = time.perf_counter()
            loss = contender.run(arguments.steps)
            seconds[name][i] = (time.perf_counter() - start) / arguments.steps
            assert np.isfinite(loss), f"{contender.label}: the loss became {loss}"
    return seconds


def make_weights(fields: dict[str, Any]) -> tuple[ASTConfig, dict[str, Any], dict[str, Any]]:
    """Random ones: the configuration, Hugging Face's tensors and the same as our parameters."""
    import torch
    import transformers

    from ast_jax.convert.files import to_file_names
    from ast_jax.convert.names import params_from_tensors

    torch.manual_seed(0)
    their_config = transformers.ASTConfig(**fields, num_labels=527)
    model = transformers.ASTForAudioClassification(their_config)
    with torch.no_grad():  # Hugging Face starts tokens and positions at zero
        for name, parameter in model.named_parameters():
            if "embeddings" in name:
                parameter.normal_(std=0.3)
            elif "classifier.dense" in name:  # so that the loss depends on all before
                parameter.normal_(std=0.1)
    config = ASTConfig.from_dict(their_config.to_dict())
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    tensors, layout = to_file_names(tensors, "the random model")
    params, _ = params_from_tensors(tensors, layout, config, "the random model")
    return config, model.state_dict(), params


def make_batch(config: ASTConfig, batch_size: int) -> dict[str, np.ndarray]:
    """Noise as loud as normalised log-mels, with two or three labels a clip."""
    rng = np.random.default_rng(1)
    shape = (batch_size, config.max_length, config.num_mel_bins)
    targets = rng.random((batch_size, config.num_labels)) < 2.5 / config.num_labels
    return {
        "input_values": rng.standard_normal(shape, dtype=np.float32) * np.float32(0.5),
        "targets": targets.astype(np.float32),
    }


def ours(
    config: ASTConfig, params: dict[str, Any], batch: dict[str, np.ndarray], remat: bool
) -> Contender:
    """The package's own training step, as `train.py` puts it together."""
    import jax

    from ast_jax.config import OptimizerConfig
    from ast_jax.models.ast import graphdef
    from ast_jax.training import step
    from ast_jax.training.optimizer import make_optimizer, make_schedule
    from ast_jax.training.parallel import REPLICATED, SPLIT, DataParallel

    settings = OptimizerConfig(learning_rate=LEARNING_RATE)
    optimizer = make_optimizer(settings)
    parallel = DataParallel(devices=jax.devices()[:1])
    gradient_fn = step.make_gradient_fn(
        graphdef(config),
        step.binary_cross_entropy,
        lambda key, input_values: input_values,
        remat=remat,
    )
    train_step = parallel.map(
        step.make_train_step(
            gradient_fn, optimizer, make_schedule(settings, 1, 1), jax.random.key(0)
        ),
        (REPLICATED, SPLIT),
        REPLICATED,
        donate=(0,),
    )
    batch = parallel.put(batch)
    state = parallel.place(step.init_state(params, optimizer))

    def run(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, metrics = train_step(state, batch)
        jax.block_until_ready(state)
        return float(metrics.loss)

    def peak() -> int | None:
        statistics = jax.devices()[0].memory_stats()
        return statistics["peak_bytes_in_use"] if statistics else None

    return Contender(run, "ours", peak)


def peer(
    name: str,
    weights: dict[str, Any],
    batch: dict[str, np.ndarray],
    arguments: argparse.Namespace,
    kind: str,
) -> tuple[Contender, float]:
    """Hugging Face's model after its first step, and that step's loss.

    What does not compile runs without.
    """
    mode = compile_mode(name, arguments, kind)
    if mode != "none":
        try:
            contender = hugging_face(name, weights, batch, arguments, kind, mode)
            return contender, contender.run(1)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            print(f"torch.compile failed, {type(error).__name__}: {str(error)[:500]}", flush=True)
        contender = None
        clean_up()
    contender = hugging_face(name, weights, batch, arguments, kind, "none")
    return contender, contender.run(1)


def hugging_face(
    name: str,
    weights: dict[str, Any],
    batch: dict[str, np.ndarray],
    arguments: argparse.Namespace,
    kind: str,
    mode: str,
) -> Contender:
    """Hugging Face's model in PyTorch with the original's loss and Adam."""
    import torch
    import transformers

    before = torch.cuda.memory_allocated() if kind == "cuda" else 0
    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
    best = name == "SDPA"
    half = half_precision(name, arguments, kind)
    config = transformers.ASTConfig(
        **model_fields(arguments), num_labels=527, attn_implementation="sdpa" if best else "eager"
    )
    model = transformers.ASTForAudioClassification(config)
    model.load_state_dict(weights)
    model = model.to(kind).train()
    forward = model if mode == "none" else torch.compile(model, mode=mode, dynamic=False)
    optimizer = torch.optim.Adam(
        model.parameters(),
        LEARNING_RATE,
        betas=(0.95, 0.999),
        weight_decay=5e-7,
        fused=True if best else None,
    )
    scaler = torch.amp.GradScaler(kind, enabled=half == "float16")
    inputs, targets = (torch.from_numpy(batch[key]).to(kind) for key in ("input_values", "targets"))
    cast_to = getattr(torch, half) if half else None
    loss_of = torch.nn.BCEWithLogitsLoss()

    def run(steps: int) -> float:
        for _ in range(steps):
            with torch.autocast(kind, cast_to, enabled=half is not None):
                loss = loss_of(forward(inputs).logits, targets)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        wait_for_torch(kind)
        return loss.item()

    def peak() -> int | None:
        return torch.cuda.max_memory_allocated() - before if kind == "cuda" else None

    return Contender(run, label(name, arguments, kind, mode), peak)


def torch_precision(kind: str) -> None:
    """Lets PyTorch multiply float32 as TF32 on a GPU, which JAX does by default."""
    import torch

    if kind == "cuda":
        torch.set_float32_matmul_precision("high")


def wait_for_torch(kind: str) -> None:
    """Until what was dispatched is done."""
    import torch

    if kind == "cuda":
        torch.cuda.synchronize()


def clean_up() -> None:
    """Gives back what nothing refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Whether a framework says so; torch.compile wraps the error in its own."""
    import torch

    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in said for words in ("resource_exhausted", "out of memory", "alloc_failed")
    )


# ---- what the command line means


def model_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """The model's size, in fields that both configurations have."""
    return TINY if arguments.tiny else SIZES[arguments.size]


def resolve_dtype(arguments: argparse.Namespace, kind: str) -> str:
    """What ours computes in."""
    return arguments.dtype or ("bfloat16" if kind == "cuda" else "float32")


def half_precision(name: str, arguments: argparse.Namespace, kind: str) -> str | None:
    """What a peer is cast to, if to anything."""
    if resolve_dtype(arguments, kind) == "float32":
        return None
    if name == "SDPA":
        return "bfloat16"
    return "float16" if kind == "cuda" else None


def compile_mode(name: str, arguments: argparse.Namespace, kind: str) -> str:
    """The mode of torch.compile for a peer, or 'none'."""
    if name != "SDPA":
        return "none"
    return arguments.compile or ("default" if kind == "cuda" else "none")


def label(name: str, arguments: argparse.Namespace, kind: str, mode: str | None = None) -> str:
    """What the table calls a contender."""
    if name == "ours":
        return name
    mode = mode or compile_mode(name, arguments, kind)
    half = half_precision(name, arguments, kind) or "float32"
    parts = ["Hugging Face", name, half]
    if mode != "none":
        parts.append("compiled" if mode == "default" else f"compiled ({mode})")
    return ", ".join(parts)


def training_flop(config: ASTConfig, tokens: int = 0) -> int:
    """FLOP of the matrix products of a step, for one clip, with all tokens or so many.

    They are the paper's model's: what ours leaves out of the last layer counts as done.
    """
    tokens, width = tokens or config.num_tokens, config.hidden_size
    patches = 2 * (tokens - 2) * config.patch_size**2 * width
    projections = 2 * tokens * width * (4 * width + 2 * config.intermediate_size)
    attention = 2 * 2 * tokens**2 * width
    head = 2 * width * config.num_labels
    return 3 * (patches + config.num_hidden_layers * (projections + attention) + head)


# ---- in this process


def alone(function: Callable, *arguments: Any) -> Any:
    """What the function returns in a new process, which gives back all memory at its end."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure_batch(batch_size: int, arguments: argparse.Namespace, kind: str) -> dict[str, Measured]:
    """All contenders beside one another, or by themselves where memory is too small for that."""
    found: dict[str, Measured] = {}
    with contextlib.suppress(BrokenProcessPool):  # killed by the system, for memory
        found = alone(measure, NAMES, batch_size, arguments, kind)
    for name in NAMES:
        if name in found and found[name].seconds is not None:
            continue
        expected = next((other.loss for other in found.values() if other.loss), None)
        try:
            again = alone(measure, (name,), batch_size, arguments, kind, expected)[name]
        except BrokenProcessPool:
            again = Measured(label(name, arguments, kind), remark="its process was killed")
        found[name] = again if again.remark else again._replace(remark="apart")
    return found


HEADER = [
    "| batch | | clips/s | TFLOP/s | of the matrix rate | peak memory | time / ours (quartiles) |",
    "| --- | --- | --- | --- | --- | --- | --- |",
]


def table_rows(batch_size: int, found: dict[str, Measured], flop: int, rate: float) -> list[str]:
    """The table's lines for a batch size."""
    rows = []
    for name in NAMES:
        one, base = found[name], found["ours"].seconds
        if one.seconds is None:
            rows.append(f"| {batch_size} | {one.label} | {one.remark} | | | | |")
            continue
        clips = batch_size / np.median(one.seconds)
        memory = f"{one.peak / 2**30:.2f} GiB" if one.peak else "–"
        ratio = "–"
        if base is not None:
            low, middle, high = np.percentile(one.seconds / base, [25, 50, 75])
            ratio = "1" if name == "ours" else f"{middle:.2f} ({low:.2f} to {high:.2f})"
        remark = f", {one.remark}" if one.remark else ""
        rows.append(
            f"| {batch_size} | {one.label}{remark} | {clips:.4g} | {clips * flop / 1e12:.3g} "
            f"| {clips * flop / rate:.0%} | {memory} | {ratio} |"
        )
    return rows


def append(path: Path, title: str, command: list[str], device: Device, lines: list[str]) -> None:
    """Adds a section with the table to a file of results."""
    said = f"{device.name}; {datetime.date.today()}."
    text = [f"\n## {title}\n", f"    {shlex.join(command)}\n", f"{said}\n", *lines]
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join(text) + "\n")


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="base384")
    parser.add_argument("--batches", type=int, nargs="+", help="clips; 1 4 16 if left out")
    parser.add_argument("--steps", type=int, default=10, help="in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--dtype",
        choices=["bfloat16", "float32"],
        help="bfloat16 on a GPU and float32 on a CPU if left out",
    )
    parser.add_argument(
        "--compile",
        choices=["none", "default", "reduce-overhead", "max-autotune"],
        help="mode of torch.compile; default on a GPU and none on a CPU if left out",
    )
    parser.add_argument("--remat", action="store_true", help="ours computes layers anew")
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the script")
    parser.add_argument("--append", type=Path, metavar="FILE", help="add the table to this file")
    arguments = parser.parse_args(argv)
    arguments.batches = arguments.batches or ([2] if arguments.tiny else [1, 4, 16])
    return arguments


def main(argv: list[str]) -> None:
    """Checks that all agree, times them and prints a table."""
    arguments = parse(argv)
    device = alone(describe, arguments)
    dtype = resolve_dtype(arguments, device.kind)
    config = ASTConfig().replace(**model_fields(arguments))
    flop = training_flop(config)
    said = (
        f"a matrix rate of {device.rate / 1e12:.4g} TFLOP/s, {flop / 1e12:.4g} TFLOP a clip in the "
        f"paper's model"
    )
    print(f"{device.name}\n{dtype}; {said}\n")
    lines = list(HEADER)
    print(*lines, sep="\n", flush=True)
    for batch_size in arguments.batches:
        found = measure_batch(batch_size, arguments, device.kind)
        rows = table_rows(batch_size, found, flop, device.rate)
        print(*rows, sep="\n", flush=True)
        lines += rows
    if arguments.append:
        size = "a tiny model" if arguments.tiny else arguments.size
        title = f"Training step: {size}, {config.max_length} frames, {dtype}"
        command = ["python", "benchmarks/training.py", *without_append(argv)]
        described = device._replace(name=f"{device.name}; {said}")
        append(arguments.append, title, command, described, lines)


def without_append(argv: list[str]) -> list[str]:
    """The command line without the file, whose place is nobody else's."""
    words = iter(argv)
    kept = []
    for word in words:
        if word == "--append":
            next(words)
        elif not word.startswith("--append="):
            kept.append(word)
    return kept


if __name__ == "__main__":
    main(sys.argv[1:])
