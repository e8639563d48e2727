"""Runs `benchmarks/cold_start.py` on small inputs; the printed times are not checked."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cold_start.py"


@pytest.mark.slow  # starts four processes
def test_both_processes_return_the_same_label(run_python):
    _, table = run_python(SCRIPT, "--tiny", "--rounds", "1").split("\n\n")
    assert [row[:8] for row in table.splitlines()[1:]] == ["ast-jax ", "Hugging "]
