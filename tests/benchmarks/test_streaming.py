"""Runs `benchmarks/streaming.py` on small inputs; the printed times are not checked."""

from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "streaming.py"


@pytest.fixture(scope="module")
def streaming(load_script):
    return load_script(SCRIPT)


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_table_is_complete(streaming, tmp_path, capsys):
    results = tmp_path / "RESULTS.md"
    results.write_text("# Measured\n")
    arguments = ["--tiny", "--sizes", "tiny224", "--hop", "0.25", "--rounds", "2"]
    streaming.main([*arguments, "--append", str(results)])
    setup, table = capsys.readouterr().out.strip().split("\n\n")
    assert "transformers" in setup
    rows = [cells(row) for row in table.splitlines()[2:]]
    assert [row[:2] for row in rows] == [
        ["small", "ours"],
        ["small", "Hugging Face, a window at a time"],
    ]
    assert results.read_text().endswith(f"\n\n{table}\n")
    assert "## Streaming: a window every 0.25 s" in results.read_text()


def test_rows_have_latency_real_time_factor_and_ratio(streaming):
    found = {
        "ours": streaming.Rounds(np.array([0.2, 0.1, 0.3]), np.array([0.25, 0.5, 1.0])),
        "peer": streaming.Rounds(np.array([1.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0])),
    }
    assert [cells(row) for row in streaming.table_rows("base384", found, 2.0)] == [
        ["base384", "ours", "0.200 s", "2.20 s", "0.250", "1"],
        ["base384", "peer", "1.000 s", "3.00 s", "0.500", "2.00 (1.50 to 3.00)"],
    ]


def test_another_models_scores_raise(streaming, monkeypatch):
    monkeypatch.setattr(streaming, "hugging_face", lambda *_: lambda waveform: np.zeros(527))
    with pytest.raises(AssertionError, match="probabilities differ by"):
        streaming.measure("tiny224", True, 0.25, 1, "cpu")
