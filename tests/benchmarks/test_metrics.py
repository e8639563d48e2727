"""Runs `benchmarks/metrics.py` on small inputs; the printed times are not checked."""

from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "metrics.py"


def test_ours_agree_with_the_originals_loop(run_python):
    printed = run_python(SCRIPT, "--clips", "60", "--classes", "12", "--rounds", "2")
    setup, table = printed.split("\n\n")
    assert "scikit-learn" in setup
    assert "they agree" in setup
    rows = table.splitlines()
    assert rows[0].startswith("60 clips, 12 classes")
    assert [row[:4] for row in rows[1:]] == ["the ", "the ", "ours"]
