"""Training on a CPU takes the memory of one step again for the next."""

import ctypes
from importlib.metadata import entry_points
from importlib.util import find_spec

import jax

# Of glibc's mallopt (malloc.h), and what to set them to: no trimming, no mapping, one heap.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
KEEPING = {TRIM_THRESHOLD: -1, MMAP_MAX: 0, ARENA_MAX: 1}


def keep_freed_memory() -> bool:
    """Has the C library keep what is freed, where JAX has a CPU alone; returns whether it does.

    XLA's CPU client takes all that a step needs in one piece and frees it at the step's end. glibc
    gives pieces of that size back to the system, which clears each page of them anew: for base384
    1.5 GB a step. The price is memory: small pieces come to lie where a large one was, and the next
    large one beside them, so that in the end the process holds that of two or three steps.

    To be called before JAX's threads start, as they keep the heap that they start with. Does
    nothing on systems without glibc, and beside an accelerator, whose hosts want many heaps.
    """
    if not _has_cpu_alone():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # of macOS and musl, and of Windows
        return False
    return all([mallopt(parameter, value) for parameter, value in KEEPING.items()])


def _has_cpu_alone() -> bool:
    """Whether JAX can have no other device, told without starting it: a setting is not undone."""
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
    if platforms:
        return platforms == "cpu"
    modules = [name for name in ("jax_plugins", "libtpu") if find_spec(name)]
    return not modules and not entry_points(group="jax_plugins")
