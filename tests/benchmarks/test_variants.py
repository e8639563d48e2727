"""Runs `benchmarks/variants.py` on small inputs; the printed times are not checked."""

from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "variants.py"


def test_variants_have_fewer_tokens_flop_or_residuals(load_script, capsys):
    load_script(SCRIPT).main(["--tiny", "--rounds=1"])
    printed = capsys.readouterr().out
    rows = [line.strip("|").split(" | ") for line in printed.splitlines() if line[:2] == "| "]
    (_, *plain), *variants = rows[2:]
    tokens, flop, residuals = (float(cell.split()[0]) for cell in plain[:3])
    assert tokens == 2 + 12 * 12
    assert len(variants) == 3
    for name, *cells in variants:
        values = [float(cell.split()[0]) for cell in cells[:3]]
        if name.strip() == "remat":
            assert values[:2] == [tokens, flop]
        else:
            assert values[0] < tokens
            assert values[1] < flop
        assert values[2] < residuals
