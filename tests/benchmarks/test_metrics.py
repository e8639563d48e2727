"""`benchmarks/metrics.py` as one tries it; the times it prints are not looked at."""

from pathlib import Path

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "metrics.py"


def test_ours_agree_with_the_originals_loop_and_stand_beside_it(run):
    printed = run(SCRIPT, "--clips", "60", "--classes", "12", "--rounds", "2")
    said, table = printed.split("\n\n")
    assert "scikit-learn" in said
    assert "they agree" in said
    rows = table.splitlines()
    assert rows[0].startswith("60 clips, 12 classes")
    assert [row[:4] for row in rows[1:]] == ["the ", "the ", "ours"]
