"""Tests what a run shows on a terminal."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ast_jax.data.prepare.run_builder import prepare
from ast_jax.training.loop import fit
from tests.small_run import small

ROOT = Path(__file__).parents[2]

# Starts a run and stops it at its first step. TFDS swaps `builtins.__import__` for milliseconds
# while it is imported; a pause makes sure that the bar's thread imports something meanwhile.
START = """
import sys
import time
from contextlib import contextmanager

from etils import epy

from ast_jax.config import FrontendConfig, PreparedData
from ast_jax.training.loop import set_up, train
from tests.small_run import small

swap = epy.lazy_imports

@contextmanager
def swap_for_longer(*args, **options):
    with swap(*args, **options):
        time.sleep(0.15)
        yield

epy.lazy_imports = swap_for_longer

def stop(state, batch):
    run.console.print("at the first step")
    time.sleep(1)
    raise KeyboardInterrupt

run, state = set_up(small(
    sys.argv[2],
    data=PreparedData(dir=sys.argv[1]),
    frontend=FrontendConfig(mean=-5.0, std=4.0),
    batch_size=2,
))
try:
    train(run._replace(functions=run.functions._replace(train_step=stop)), state)
except KeyboardInterrupt:
    run.console.print("stopped")
"""


@pytest.fixture
def prepared(tmp_path):
    """Returns the folder of a prepared set of three clips."""
    rng = np.random.default_rng(0)
    lines = ["path,labels,split"]
    for name, split in (("a", "train"), ("b", "train"), ("a", "test")):
        file = f"{split}-{name}.wav"
        soundfile.write(tmp_path / file, rng.uniform(-0.1, 0.1, 8000), 16000)
        lines.append(f"{file},{name},{split}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    prepare("csv", tmp_path, tmp_path / "prepared")
    return tmp_path / "prepared"


def run_in_terminal(code, *arguments):
    """Runs Python code in a terminal of 80 columns; returns its exit status and its output."""
    reading, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=ROOT, env=environment
    )
    os.close(terminal)
    output = b""
    while part := read_terminal(reading):
        output += part
    os.close(reading)
    return process.wait(), output.decode()


def read_terminal(reading):
    """Returns the next bytes, or none when the last process of the terminal has ended."""
    try:
        return os.read(reading, 65536)
    except OSError:  # how Linux reports that end
        return b""


def test_the_bar_of_a_run_on_a_prepared_set_survives_the_import_of_tfds(prepared, tmp_path):
    status, output = run_in_terminal(START, prepared, tmp_path / "run")
    assert status == 0, output
    assert "Exception" not in output
    before, _, after = output.partition("at the first step")
    assert "epoch 1/3" in before
    assert after.count("epoch 1/3") > 3, "the bar is frozen"


class Terminal(io.StringIO):
    """Collects what is written to a terminal."""

    def isatty(self):
        return True

    def lines(self):
        """Returns the lines as they were drawn, without colors and moves of the cursor."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())
        return [line.strip() for line in re.split("[\r\n]", text) if line.strip()]


def shown(monkeypatch, output, config):
    """Runs a configuration that prints to `output`."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", output)
    fit(config)
    monkeypatch.undo()


@pytest.mark.usefixtures("no_plots", "share_functions")
def test_a_run_fits_a_terminal_of_80_columns_and_names_the_epoch_kept(tmp_path, monkeypatch):
    terminal = Terminal()
    shown(monkeypatch, terminal, small(tmp_path / "run", final_params="best"))
    lines = terminal.lines()
    bars = [line for line in lines if re.search(r"epoch \d/3", line)]
    assert re.fullmatch(r"\S epoch 1/3 ━+ +0/2 compiling… --:--", bars[0])
    assert any(re.search(r"loss \d\.\d{4}, \d+ clips/s, \d+% waiting", line) for line in bars)
    table = [line for line in lines if re.match(r"(epoch  |\d/3 )", line)]
    assert [line.split()[0] for line in table] == ["epoch", "1/3", "2/3", "3/3"]
    assert max(map(len, bars + table)) <= 80
    assert not any("nan" in line for line in lines)
    assert re.fullmatch(
        r"held out, epoch \d \(best mAP\): loss \d\.\d{4}, accuracy \d+\.\d%, mAP \d\.\d{3}",
        lines[-1],
    )


@pytest.mark.usefixtures("no_plots", "share_functions")
def test_a_run_without_a_terminal_prints_lines(tmp_path, monkeypatch):
    output = io.StringIO()
    shown(monkeypatch, output, small(tmp_path / "run"))
    lines = output.getvalue().splitlines()
    assert "compiling the training step…" in lines
    assert "\x1b" not in output.getvalue()
    assert lines[-1].startswith("held out, epoch 3 (last): loss ")
