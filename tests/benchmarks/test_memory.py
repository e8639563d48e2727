"""Tests `benchmarks/memory.py`, with a limit on the batch instead of a full memory."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory.py"


@pytest.fixture(scope="module")
def memory(load_script):
    return load_script(SCRIPT)


@given(st.integers(0, 3000), st.integers(1, 64), st.integers(64, 2000))
def test_largest_finds_the_batch_to_an_eighth_and_tries_none_twice(memory, capacity, first, limit):
    tried = []

    def trial(batch_size):
        tried.append(batch_size)
        return batch_size <= capacity

    best = memory.largest(trial, first, limit)
    assert len(tried) == len(set(tried))
    assert all(first <= batch_size <= limit for batch_size in tried)
    if capacity < first:
        assert (best, tried) == (0, [first])
    elif capacity >= limit:
        assert best == limit
    else:
        assert best in tried
        assert best <= capacity < best + max(best // 8, 1)


@pytest.mark.slow  # a process for each contender
def test_table_has_ours_and_a_peer(run_python):
    printed = run_python(
        SCRIPT, "--tiny", "--limit=1", "--steps=1", "--rounds=1", "--names", "ours", "SDPA"
    )
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in printed.splitlines()
        if row.startswith("| ")
    ]
    assert [row[:2] for row in rows[2:]] == [
        ["ours", "1 (the limit)"],
        ["Hugging Face, SDPA, float32", "1 (the limit)"],
    ]


def test_failures_are_in_the_table_and_remat_reaches_the_step(memory, monkeypatch, capsys):
    calls = []

    def measure_alone(function, name, label, batch_size, arguments, kind, expected):
        calls.append((name, batch_size, arguments.remat, arguments.fall_back))
        preallocated = os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]
        assert preallocated == ("true" if name == "ours" else "false")
        if name == "eager":
            return measured(label, remark="its process died")
        if batch_size > 2:
            return measured(label, remark="failed, TypeError" if batch_size == 4 else "too much")
        return measured(label, 0.7, np.full((1, 2), batch_size / 4), peak=2**30)

    device = type("Device", (), {"kind": "cuda", "name": "a GPU", "rate": 1e15})
    measured = memory.Measurement
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(memory, "run_in_process", lambda function, *arguments: device)
    monkeypatch.setattr(memory, "measure_alone", measure_alone)
    monkeypatch.setattr(memory, "training_flop", lambda config: 5e13)
    with pytest.raises(SystemExit, match="some measurements failed"):
        memory.main(["--first=1", "--limit=8", "--names", "ours, remat", "eager"])
    tried = [("ours", size, True, False) for size in (1, 2, 4, 3)]
    assert calls == [*tried, ("eager", 1, False, False)]
    printed = capsys.readouterr()
    ours, eager = printed.out.splitlines()[-2:]
    remat = "| ours, remat | 2; 4 failed, TypeError | 4 | 20% | 1.00 GiB | 4 at 1 |"
    assert ours == remat
    assert eager.startswith("| Hugging Face, eager, float16 | below 1: its process died |")
    assert "ours, remat, 3 clips: too much" in printed.err


@pytest.mark.parametrize("options", [["--first=0"], ["--limit=0"], ["--first=9", "--limit=8"]])
def test_invalid_batch_limits_raise(memory, options, capsys):
    with pytest.raises(SystemExit):
        memory.parse(options)
    assert "give --first between 1 and --limit" in capsys.readouterr().err
