"""`benchmarks/pipeline.py` as one tries it; the times it prints are not looked at."""

import os
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "pipeline.py"


def rows(output, section):
    """The lines of a section's table, and what is said below it."""
    blocks = output.split("\n\n")
    (block,) = [block for block in blocks if block.startswith(f"{section}:")]
    return block.splitlines()[1:]


@pytest.mark.slow
def test_batches_and_prepare_stand_beside_the_peer(run):
    output = run(SCRIPT, "--tiny", "--sections", "pipeline", "prepare")
    pipeline = rows(output, "pipeline")
    for start in ("ours, no features", "ours, features on the host"):
        assert sum(row.startswith(start) for row in pipeline) == 2  # threads, and a worker
    assert sum(row.startswith("DataLoader") for row in pipeline) == 1
    assert "against the DataLoader" in pipeline[-1]
    prepare = rows(output, "prepare")
    assert [row.split()[0] for row in prepare[:4]] == ["WAV,", "WAV,", "FLAC,", "FLAC,"]


def test_without_what_data_sets_need_it_says_so(run, without, tmp_path):
    without()
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    output = run(SCRIPT, "--tiny", "--sections", "pipeline", env=environment)
    missing = "array_record, soundfile, soxr, tensorflow, tensorflow_datasets"
    assert f"pipeline: left out, as {missing} cannot be imported here" in output
