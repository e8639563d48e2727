"""Fixtures that run the scripts of `benchmarks/`."""

import importlib.util
import os
import subprocess
import sys

import pytest

# Packages that only datasets need; a machine with a GPU may not have them.
DATA_PACKAGES = (
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
def run_python():
    """Returns a function that runs Python, asserts success and returns its standard output."""

    def run_python(*arguments, **options):
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            **options,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run_python


@pytest.fixture(scope="session")
def load_script():
    """Returns a function that imports a script and restores `sys.path` and the environment."""

    def load_script(script):
        spec = importlib.util.spec_from_file_location(f"benchmarks_{script.stem}", script)
        module = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [str(script.parent), *sys.path])
            patch.setattr(os, "environ", dict(os.environ))
            spec.loader.exec_module(module)
        return module

    return load_script


@pytest.fixture
def block_imports(tmp_path):
    """Returns a function that blocks the import of `DATA_PACKAGES` and of further modules.

    It writes a `sitecustomize.py` that takes effect with `PYTHONPATH=tmp_path`, in child processes
    too. Importing a module that is None in `sys.modules` raises ModuleNotFoundError.
    """

    def block_imports(*more):
        lines = [f"sys.modules[{name!r}] = None" for name in (*DATA_PACKAGES, *more)]
        (tmp_path / "sitecustomize.py").write_text("\n".join(["import sys", *lines]))

    return block_imports
