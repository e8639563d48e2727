"""`benchmarks/cold_start.py` as one tries it; the times it prints are not looked at."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "cold_start.py"


@pytest.mark.slow  # a process for each start
def test_both_give_the_same_label_as_whole_processes(run):
    _, table = run(SCRIPT, "--tiny", "--rounds", "1").split("\n\n")
    assert [row[:8] for row in table.splitlines()[1:]] == ["ast-jax ", "Hugging "]
