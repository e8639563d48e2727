"""`benchmarks/variants.py` as one tries it; the times it prints are not looked at."""

from pathlib import Path

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "variants.py"


def test_every_variant_does_less_or_keeps_less_than_the_plain_model(run):
    printed = run(SCRIPT, "--tiny", "--rounds=1")
    rows = [line.strip("|").split(" | ") for line in printed.splitlines() if line[:2] == "| "]
    (_, *plain), *variants = rows[2:]
    tokens, flop, kept = (float(cell.split()[0]) for cell in plain[:3])
    assert tokens == 2 + 12 * 12
    assert len(variants) == 3
    for name, *cells in variants:
        less = [float(cell.split()[0]) for cell in cells[:3]]
        if name.strip() == "remat":
            assert less[:2] == [tokens, flop]
        else:
            assert less[0] < tokens
            assert less[1] < flop
        assert less[2] < kept
