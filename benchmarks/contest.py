"""Ours beside PyTorch's on one GPU or CPU: the device's rate, rounds, processes, a file of results.

Every batch size has a process of its own, in which all contenders take their turns. One that runs
out of memory beside the others is tried again alone; its rounds are then no longer the others'.
"""

import contextlib
import datetime
import gc
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable
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

# torch is imported where it is used: the first process only starts others and must hold none of the
# GPU's memory.


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
    """A model at work.

    Attributes:
        run: does its work so many times, waits for the last and returns its result.
        label: what the table calls it.
        peak: the most bytes it held on a GPU so far, or None.
    """

    run: Callable[[int], Any]
    label: str
    peak: Callable[[], int | None]


class Measured(NamedTuple):
    """What was found of a contender.

    Attributes:
        label: what the table calls it.
        first: the first result, or None if there was none.
        seconds: of one turn of its work, (what was timed, rounds); None if it did not run.
        peak: bytes, on a GPU.
        remark: why it did not run, or how it ran.
    """

    label: str
    first: Any = None
    seconds: np.ndarray | None = None
    peak: int | None = None
    remark: str = ""


# ---- in a process of their own: everything that touches the device


def describe(dtype: str | None, tiny: bool) -> Device:
    """The device, and the rate of its matrix products in `dtype` (`default_dtype` if None)."""
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
    size = 256 if tiny else 8192 if kind == "cuda" else 2048
    return Device(kind, f"{name}; {said}", matrix_rate(kind, dtype or default_dtype(kind), size))


def default_dtype(kind: str) -> str:
    """What a device computes in unless told."""
    return "bfloat16" if kind == "cuda" else "float32"


def matrix_rate(kind: str, dtype: str, size: int, rounds: int = 12) -> float:
    """FLOP/s of products of two square matrices: JAX's or PyTorch's, the fastest round's."""
    import jax
    import jax.numpy as jnp
    import torch

    torch_precision(kind)
    values = np.random.default_rng(0).standard_normal((2, size, size), dtype=np.float32)
    left, right = jnp.asarray(values, dtype)
    jax_product = jax.jit(jnp.matmul)
    torch_left, torch_right = torch.from_numpy(values).to(kind, getattr(torch, dtype))
    products = 5 if kind == "cuda" else 1  # on a GPU one after another, without waiting

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
    makers: dict[str, Callable[[], tuple[Contender, Any]]],
    labels: dict[str, str],
    check: Callable[[str, Any, Any], None],
    turns: Iterable[int],
    rounds: int,
    expected: Any = None,
) -> dict[str, Measured]:
    """Checks that the contenders' first results agree, and times them in turn.

    Args:
        makers: of each contender, by name; they give it warmed up, with its first result.
        labels: what the table calls one that cannot be made.
        check: (label, result, expected) raises an AssertionError if the result is wrong.
        turns: how often a contender works before it is waited for; each number is timed apart.
        rounds: how often all take their turns.
        expected: the first result, if another process knows it.
    """
    found, contenders = {}, {}
    for name, make in makers.items():
        try:
            contender, first = make()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            found[name] = Measured(labels[name], remark="out of memory")
        else:
            contenders[name] = contender
            found[name] = Measured(contender.label, first, peak=contender.peak())
        contender = None  # of one that failed nothing stays in memory
        clean_up()
    for name in contenders:
        expected = found[name].first if expected is None else expected
        check(found[name].label, found[name].first, expected)
    try:
        seconds = np.array([time_rounds(contenders, times, rounds) for times in turns])
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return {name: one._replace(remark="out of memory") for name, one in found.items()}
    for i, name in enumerate(contenders):
        found[name] = found[name]._replace(seconds=seconds[:, i])
    return found


def time_rounds(contenders: dict[str, Contender], times: int, rounds: int) -> np.ndarray:
    """Seconds of one of so many turns before one waits, (contenders, rounds)."""
    seconds = np.empty((len(contenders), rounds))
    for i in range(rounds):
        for j, contender in enumerate(contenders.values()):
            start = time.perf_counter()
            result = contender.run(times)
            seconds[j, i] = (time.perf_counter() - start) / times
            assert np.isfinite(result).all(), f"{contender.label}: the result became {result}"
    return seconds


def jax_peak() -> Callable[[], int | None]:
    """What tells the most bytes that JAX held on a GPU so far, beside those it holds now."""
    import jax

    def statistic(name: str) -> int | None:
        statistics = jax.devices()[0].memory_stats()
        return statistics[name] if statistics else None

    before = statistic("bytes_in_use") or 0

    def peak() -> int | None:
        most = statistic("peak_bytes_in_use")
        return None if most is None else most - before

    return peak


def torch_peak(kind: str) -> Callable[[], int | None]:
    """The same of PyTorch."""
    import torch

    if kind != "cuda":
        return lambda: None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return lambda: torch.cuda.max_memory_allocated() - before


def compiled_if_possible(make: Callable[[str], Contender], mode: str) -> tuple[Contender, Any]:
    """PyTorch's contender and its first result; what does not compile runs without.

    Args:
        make: a contender by the mode of torch.compile, or by 'none'.
        mode: the one to try first.
    """
    if mode != "none":
        try:
            contender = make(mode)
            return contender, contender.run(1)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            print(f"torch.compile failed, {type(error).__name__}: {str(error)[:500]}", flush=True)
        contender = None
        clean_up()
    contender = make("none")
    return contender, contender.run(1)


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


# ---- in the first process


def alone(function: Callable, *arguments: Any) -> Any:
    """What the function returns in a new process, which gives back all memory at its end."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure_batch(
    function: Callable[..., dict[str, Measured]],
    labels: dict[str, str],
    *arguments: Any,
) -> dict[str, Measured]:
    """All contenders beside one another, or by themselves where memory is too small for that.

    Args:
        function: (names, *arguments, expected) → what `measure` gives for these.
        labels: of all contenders, by name.
        *arguments: the function's.
    """
    found: dict[str, Measured] = {}
    with contextlib.suppress(BrokenProcessPool):  # killed by the system, for memory
        found = alone(function, tuple(labels), *arguments, None)
    for name in labels:
        if name in found and found[name].seconds is not None:
            continue
        firsts = (other.first for other in found.values())
        expected = next((first for first in firsts if first is not None), None)
        try:
            again = alone(function, (name,), *arguments, expected)[name]
        except BrokenProcessPool:
            again = Measured(labels[name], remark="its process was killed")
        found[name] = again if again.remark else again._replace(remark="apart")
    return {name: found[name] for name in labels}


def quartiles(ratios: np.ndarray) -> str:
    """A table's cell: the median and both quartiles."""
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def append(path: Path, title: str, command: list[str], said: str, lines: list[str]) -> None:
    """Adds a section with the table to a file of results.

    `command` is the whole command line; the file's own name, which nobody else has, is left out.
    """
    words = iter(command)
    kept = []
    for word in words:
        if word == "--append":
            next(words)
        elif not word.startswith("--append="):
            kept.append(word)
    text = [f"\n## {title}\n", f"    {shlex.join(kept)}\n", f"{said}; {datetime.date.today()}.\n"]
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join([*text, *lines]) + "\n")
