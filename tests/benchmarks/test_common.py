"""What `benchmarks/common.py` writes."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "common.py"


@pytest.mark.parametrize("words", [["--append", "secret/R.md"], ["--append=secret/R.md"]])
def test_a_result_is_added_with_its_command_but_without_the_files_name(as_module, tmp_path, words):
    path = tmp_path / "R.md"
    path.write_text("# Measured\n")
    command = ["python", "x.py", *words, "--tiny"]
    as_module(SCRIPT).append(path, "A title", command, "A machine", ["| a |"])
    text = path.read_text()
    assert text.startswith("# Measured\n\n## A title\n\n    python x.py --tiny\n\nA machine; 20")
    assert text.endswith(".\n\n| a |\n")
