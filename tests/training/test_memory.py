import ctypes
import subprocess
import sys

import jax
import pytest

from ast_jax.training import memory

CODE = """
import resource
import jax, jax.numpy as jnp
from ast_jax.training.memory import keep_freed_memory

keep = {keep} and keep_freed_memory()

@jax.jit
def step(x):  # takes 64 MiB for itself
    square = jnp.outer(x, x)
    return square @ square[0]

x = jnp.ones(4096)
for _ in range(16):
    x = step(x * 0).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(16):
    x = step(x * 0).block_until_ready()
print(keep, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(keep):
    """Whether memory is kept, and how many pages the later steps were given by the system."""
    code = [sys.executable, "-c", CODE.format(keep=keep)]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_later_steps_take_the_memory_of_earlier_ones():
    kept, few = pages(keep=True)
    assert kept
    assert few < pages(keep=False)[1] / 2  # now and then there is none in one piece


class Library:
    """A C library that notes what it is told."""

    def __init__(self):
        self.told = {}

    def mallopt(self, parameter, value):
        self.told[parameter] = value


def test_beside_an_accelerator_the_c_library_is_left_as_it_was(monkeypatch):
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert memory.keep_freed_memory()
    assert library.told == memory.KEEPING
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not memory.keep_freed_memory()
    assert library.told == memory.DEFAULTS


def test_a_c_library_without_the_setting_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed_memory()
