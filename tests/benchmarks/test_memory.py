"""`benchmarks/memory.py` as one tries it, on a machine whose memory is the limit it is given."""

from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "memory.py"


@pytest.fixture(scope="module")
def memory(as_module):
    return as_module(SCRIPT)


@given(st.integers(0, 3000), st.integers(1, 64), st.integers(64, 2000))
def test_the_largest_batch_is_found_to_an_eighth_and_none_is_tried_twice(
    memory, capacity, first, limit
):
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


def test_ours_and_a_peer_stand_in_the_table(run):
    printed = run(
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


def test_who_does_not_fit_says_so_and_remat_reaches_the_step(memory, monkeypatch, capsys):
    asked = []

    def alone(function, *arguments):
        if function is memory.describe:
            return device
        names, batch_size, options = arguments[:3]
        asked.append((names, batch_size, options.remat))
        if names == ("eager",):
            raise BrokenProcessPool
        if batch_size > 2:
            return {names[0]: measured(names[0], remark="out of memory")}
        return {names[0]: measured(names[0], 0.7, np.full((1, 2), 0.5), peak=2**30)}

    device = type("Device", (), {"kind": "cuda", "name": "a GPU", "rate": 1e15})
    measured = memory.Measured
    monkeypatch.setattr(memory, "alone", alone)
    memory.main(["--first=1", "--limit=8", "--names", "ours, remat", "eager"])
    assert asked == [(("ours",), n, True) for n in (1, 2, 4, 3)] + [(("eager",), 1, False)]
    ours, eager = capsys.readouterr().out.splitlines()[-2:]
    assert ours.startswith("| ours | 2 | 4 | ")
    assert "1.00 GiB | 2 at 1 |" in ours
    assert eager.startswith("| Hugging Face, eager, float16 | below 1: its process was killed |")
