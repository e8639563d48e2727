import ctypes
import os
import platform
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
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(code, env=environment, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_later_steps_take_the_memory_of_earlier_ones():
    kept, few = pages(keep=True)
    assert kept
    assert few < pages(keep=False)[1] / 2  # now and then there is none in one piece


class Library:
    """A C library that notes what it is told."""

    def __init__(self, answer=1):
        self.told = {}
        self.answer = answer

    def mallopt(self, parameter, value):
        self.told[parameter] = value
        return self.answer


@pytest.fixture
def settings():
    """JAX's choice of platforms, to be changed: (value) → None."""
    before = jax.config.jax_platforms
    yield lambda value: jax.config.update("jax_platforms", value)
    jax.config.update("jax_platforms", before)


@pytest.mark.parametrize(
    ("platforms", "installed", "expected"),
    [
        ("cpu", ["jax_plugins", "libtpu"], True),
        ("", [], True),
        (None, [], True),
        (None, ["jax_plugins"], False),
        (None, ["libtpu"], False),
        ("cuda,cpu", [], False),
    ],
)
def test_the_c_library_is_told_only_where_there_is_a_cpu_alone(
    monkeypatch, settings, platforms, installed, expected
):
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(memory, "entry_points", lambda group: ())
    monkeypatch.setattr(memory, "find_spec", lambda name: name in installed or None)
    settings(platforms)
    assert memory.keep_freed_memory() is expected
    assert library.told == (memory.KEEPING if expected else {})


def test_a_c_library_that_has_no_such_setting_or_refuses_it_is_told_of(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library(answer=0))
    assert not memory.keep_freed_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed_memory()
