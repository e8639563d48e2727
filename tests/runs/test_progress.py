"""Tests the progress bar of a run."""

import io

from rich.console import Console

from ast_jax.runs import progress
from ast_jax.runs.progress import EpochBar


def test_without_a_terminal_a_line_is_printed_each_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    printed = io.StringIO()
    with EpochBar(Console(file=printed), num_epochs=3) as bar:
        bar.start(2, step=10, steps=100)
        for _ in range(14):
            now[0] += 10
            bar.step(loss=0.25, clips=30)
        bar.end()
    assert printed.getvalue().splitlines() == [
        "compiling the training step…",
        "epoch 2/3, step 17 of 100: loss 0.2500, 3 clips/s, 0% waiting",
        "epoch 2/3, step 24 of 100: loss 0.2500, 3 clips/s, 0% waiting",
    ]
