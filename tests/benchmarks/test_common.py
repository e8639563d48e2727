"""Tests `benchmarks/common.py`."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "common.py"


@pytest.mark.parametrize("option", [["--append", "secret/R.md"], ["--append=secret/R.md"]])
def test_append_results_shows_the_command_without_the_file(load_script, tmp_path, option):
    path = tmp_path / "R.md"
    path.write_text("# Measured\n")
    command = ["python", "x.py", *option, "--tiny"]
    load_script(SCRIPT).append_results(path, "A title", command, "A machine", ["| a |"])
    text = path.read_text()
    assert text.startswith("# Measured\n\n## A title\n\n    python x.py --tiny\n\nA machine; 20")
    assert text.endswith(".\n\n| a |\n")
