"""The device that JAX and PyTorch share: matrix rate, peak memory, synchronization."""

import gc
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

# Both frameworks share a GPU: JAX allocates on demand instead of reserving memory at the start, and
# PyTorch uses expandable segments against fragmentation.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
if "XLA_CLIENT_MEM_FRACTION" not in os.environ:
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", ".95")
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import numpy as np
from common import cpu_name, versions

# torch is imported where it is used: the main process only starts others and must not allocate GPU
# memory.
# Parts of the frameworks' messages. Creating a library's handle fails as well when memory is full.
OUT_OF_MEMORY = (
    "resource_exhausted",
    "out of memory",
    "alloc_failed",
    "cublas_status_not_initialized",
    "cudnn_status_not_initialized",
    "failed to create cublas handle",
    "dnn library initialization failed",
)


class Device(NamedTuple):
    """The device of a benchmark.

    Attributes:
        kind: 'cuda' or 'cpu'.
        name: its model name, and the versions of the software.
        rate: FLOP/s of a large matrix product.
    """

    kind: str
    name: str
    rate: float


def describe(dtype: str | None, tiny: bool) -> Device:
    """Returns the device, with its matrix rate in `dtype` (`default_dtype` if None)."""
    import jax
    import torch

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    if (kind == "cuda") != (jax.default_backend() == "gpu"):
        sys.exit(
            f"PyTorch computes on {kind} and JAX on {jax.default_backend()}: install both for one "
            f"device"
        )
    software = f"Python {platform.python_version()}, "
    software += versions(["jax", "jaxlib", "flax", "optax", "torch", "transformers"])
    if kind == "cuda":
        name = torch.cuda.get_device_name(0)
        software += f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    else:
        name = f"{cpu_name()}, {torch.get_num_threads()} threads"
    size = 256 if tiny else 8192 if kind == "cuda" else 2048
    return Device(
        kind, f"{name}; {software}", matrix_rate(kind, dtype or default_dtype(kind), size)
    )


def default_dtype(kind: str) -> str:
    """Returns the dtype that a device computes in by default."""
    return "bfloat16" if kind == "cuda" else "float32"


def matrix_rate(kind: str, dtype: str, size: int, rounds: int = 12) -> float:
    """Returns the FLOP/s of square matrix products in JAX or PyTorch, of the fastest round."""
    import jax
    import jax.numpy as jnp
    import torch

    torch_precision(kind)
    values = np.random.default_rng(0).standard_normal((2, size, size), dtype=np.float32)
    left, right = jnp.asarray(values, dtype)
    jax_product = jax.jit(jnp.matmul)
    torch_left, torch_right = torch.from_numpy(values).to(kind, getattr(torch, dtype))
    products = 5 if kind == "cuda" else 1  # on a GPU, dispatched without waiting

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


def jax_peak() -> Callable[[], int | None]:
    """Returns a function that returns JAX's peak GPU memory in bytes, above what is in use now.

    JAX cannot reset its peak, so this is an upper bound: compilation, or a contender measured
    before, may have used more.
    """
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
    """Returns the same for PyTorch, since the last call of `reset_torch_peak`."""
    import torch

    if kind != "cuda":
        return lambda: None
    before = torch.cuda.memory_allocated()
    return lambda: torch.cuda.max_memory_allocated() - before


def reset_torch_peak() -> None:
    """Resets PyTorch's peak memory, to exclude that of compilation."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def torch_precision(kind: str) -> None:
    """Lets PyTorch multiply float32 as TF32 on a GPU, which JAX does by default."""
    import torch

    if kind == "cuda":
        torch.set_float32_matmul_precision("high")


def wait_for_torch(kind: str) -> None:
    """Blocks until PyTorch's dispatched work is done."""
    import torch

    if kind == "cuda":
        torch.cuda.synchronize()


def free_memory() -> None:
    """Frees unreferenced memory of the host and of PyTorch."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether memory was too small; prints the error if so.

    The message is searched, as torch.compile wraps the error in one of its own.
    """
    import torch

    message = str(error).lower()
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        part in message for part in OUT_OF_MEMORY
    )
    if out_of_memory:
        print(f"{type(error).__name__}: {message[:200]}", file=sys.stderr, flush=True)
    return out_of_memory
