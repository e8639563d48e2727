"""Training on a CPU takes the memory of one step again for the next."""

import ctypes

import jax

# Of glibc's mallopt (malloc.h): what to set, to what, and its default.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
KEEPING = {TRIM_THRESHOLD: -1, MMAP_MAX: 0, ARENA_MAX: 1}  # no trimming, no mapping, one heap
DEFAULTS = {TRIM_THRESHOLD: 128 * 1024, MMAP_MAX: 65536, ARENA_MAX: 0}


def keep_freed_memory() -> bool:
    """Has the C library keep what is freed, if JAX's backend is a CPU; returns whether it does.

    XLA's CPU client takes all that a step needs in one piece and frees it at the step's end. glibc
    gives pieces of that size back to the system, which clears each page of them anew: for base384
    1.2 GB a step. The price is memory: small pieces come to lie where a large one was, and the next
    large one beside them, so that in the end the process holds that of two or three steps.

    To be called before JAX's threads start, as they keep the heap that they start with. Does
    nothing on systems without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # of macOS and musl, and of Windows
        return False
    for parameter, value in KEEPING.items():
        mallopt(parameter, value)
    if jax.default_backend() == "cpu":  # starts the threads
        return True
    for parameter, value in DEFAULTS.items():
        mallopt(parameter, value)
    return False
