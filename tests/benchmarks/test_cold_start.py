"""`benchmarks/cold_start.py` as one tries it; the times it prints are not looked at."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "cold_start.py"


@pytest.mark.slow  # a process for each start
def test_both_give_the_same_label_as_whole_processes():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--tiny", "--rounds", "1"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    _, table = done.stdout.split("\n\n")
    assert [row[:8] for row in table.splitlines()[1:]] == ["ast-jax ", "Hugging "]
