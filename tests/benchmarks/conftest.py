"""Runs the scripts of `benchmarks/` as one tries them."""

import importlib.util
import os
import subprocess
import sys

import pytest

# What only data sets need, and a machine with a GPU may not have.
MISSING = (
    "tensorflow",
    "tensorflow_datasets",
    "librosa",
    "soundfile",
    "soxr",
    "array_record",
    "ml_collections",
    "matplotlib",
)


@pytest.fixture(scope="session")
def run():
    """Runs Python with these arguments, which must succeed; gives what it printed."""

    def run(*arguments, **options):
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            **options,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def as_module():
    """Imports a script; what it does to `sys.path` and the environment ends with that."""

    def as_module(script):
        spec = importlib.util.spec_from_file_location(f"benchmarks_{script.stem}", script)
        module = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [str(script.parent), *sys.path])
            patch.setattr(os, "environ", dict(os.environ))
            spec.loader.exec_module(module)
        return module

    return as_module


@pytest.fixture
def without(tmp_path):
    """Has `PYTHONPATH=tmp_path` mean that `MISSING` and what is named besides cannot be imported.

    None for a module is Python's own way to say so; processes that a script starts read it too.
    """

    def without(*more):
        lines = [f"sys.modules[{name!r}] = None" for name in (*MISSING, *more)]
        (tmp_path / "sitecustomize.py").write_text("\n".join(["import sys", *lines]))

    return without
