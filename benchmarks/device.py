"""The GPU or CPU that ours and PyTorch's share: its matrix rate, its memory, and waiting for it."""

import gc
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

# Two frameworks share a GPU: JAX takes memory as it needs it, and may have as much as PyTorch,
# whose memory is to grow in pieces that fit together.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
if "XLA_CLIENT_MEM_FRACTION" not in os.environ:
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", ".95")
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import numpy as np
from common import cpu, versions

# torch is imported where it is used: the first process only starts others and must hold none of the
# GPU's memory.
# What either framework says where there is too little; a library's handle needs some as well.
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
    """What everything runs on.

    Attributes:
        kind: 'cuda' or 'cpu'.
        name: what it says of itself, and the versions.
        rate: FLOP/s of a large matrix product.
    """

    kind: str
    name: str
    rate: float


def describe(dtype: str | None, tiny: bool) -> Device:
    """The device, and the rate of its matrix products in `dtype` (`default_dtype` if None)."""
    import jax
    import torch

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    if (kind == "cuda") != (jax.default_backend() == "gpu"):
        sys.exit(
            f"PyTorch computes on {kind} and JAX on {jax.default_backend()}: install both for one "
            f"device"
        )
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


def jax_peak() -> Callable[[], int | None]:
    """What tells the most bytes that JAX held on a GPU so far, beside those it holds now.

    JAX cannot forget a peak. It is that of compiling, if that took more than the work, or of what
    was measured before, if that took more than this and all that is there still.
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
    """What tells the most bytes that PyTorch held since `forget_torch_peak`, beside those now."""
    import torch

    if kind != "cuda":
        return lambda: None
    before = torch.cuda.memory_allocated()
    return lambda: torch.cuda.max_memory_allocated() - before


def forget_torch_peak() -> None:
    """Leaves out of it what compiling took, which depends on what was compiled before."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


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
    found = isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in said for words in OUT_OF_MEMORY
    )
    if found:
        print(f"{type(error).__name__}: {said[:200]}", file=sys.stderr, flush=True)
    return found
