"""Runs the scripts of `benchmarks/` as one tries them."""

import subprocess
import sys

import pytest


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
