"""`benchmarks/pipeline.py` as one tries it; the times it prints are not looked at."""

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


def test_frontends_are_timed_without_what_only_data_sets_need(run):
    # None for a module is Python's own way to say that it cannot be imported.
    without = (
        "import runpy, sys\n"
        "for name in ('tensorflow', 'tensorflow_datasets', 'librosa', 'soundfile', 'soxr'):\n"
        "    sys.modules[name] = None\n"
        "sys.argv = sys.argv[1:]\n"
        "sys.path.insert(0, sys.argv[0].rpartition('/')[0])\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    output = run("-c", without, SCRIPT, "--tiny", "--sections", "frontend", "pipeline")
    frontend = rows(output, "frontend")
    assert sum(row.startswith("our") for row in frontend) == 4
    assert frontend[0].startswith("Hugging Face")
    assert "pipeline: left out, as soundfile, soxr, tensorflow, tensorflow_datasets" in output
