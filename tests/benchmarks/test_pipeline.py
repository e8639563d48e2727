"""Runs `benchmarks/pipeline.py` on small inputs; the printed times are not checked."""

import os
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pipeline.py"


def rows(output, section):
    """Returns the lines of a section's table, and those below it."""
    blocks = output.split("\n\n")
    (block,) = [block for block in blocks if block.startswith(f"{section}:")]
    return block.splitlines()[1:]


@pytest.mark.slow
def test_tables_have_all_contenders(run_python):
    output = run_python(SCRIPT, "--tiny", "--sections", "pipeline", "prepare")
    pipeline = rows(output, "pipeline")
    for start in ("ours, no features", "ours, features on the host"):
        assert sum(row.startswith(start) for row in pipeline) == 2  # threads, and one worker
    assert sum(row.startswith("DataLoader") for row in pipeline) == 1
    assert "against the DataLoader" in pipeline[-1]
    prepare = rows(output, "prepare")
    assert [row.split()[0] for row in prepare[:4]] == ["WAV,", "WAV,", "FLAC,", "FLAC,"]


def test_a_section_without_its_packages_is_skipped(run_python, block_imports, tmp_path):
    block_imports()
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    output = run_python(SCRIPT, "--tiny", "--sections", "pipeline", env=environment)
    missing = "array_record, soundfile, soxr, tensorflow, tensorflow_datasets"
    assert f"pipeline: skipped, as {missing} cannot be imported" in output
