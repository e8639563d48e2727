"""Runs `train.py` as a user does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ast_jax.cli.main import main

ROOT = Path(__file__).parent.parent


def train(*flags, timeout=400):
    return subprocess.run(
        [sys.executable, ROOT / "train.py", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--config=configs/demo.py", "--config.batch_size=3"], "--config is no longer an option"),
        (["none.py"], "none.py: there is no such file"),
        (["demo", "--data.kind=esc51"], "esc51"),
        (["demo", "--batch-size=0"], "batch_size is 0"),
        (["esc10", "--data.dir=/nowhere"], "/nowhere/meta/esc50.csv"),
        (["demo", "--model.max_length=8"], "max_length 8"),
    ],
)
def test_an_input_error_prints_one_sentence(tmp_path, capsys, flags, named):
    workdir = tmp_path / "run"
    assert main(["train", *flags, f"--workdir={workdir}"]) == 1
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert message.startswith("ast-jax: ")
    assert named in message
    assert not workdir.exists()


def test_the_script_is_the_command():
    done = train("none.py")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "none.py" in done.stderr


@pytest.mark.slow
def test_esc10_is_above_chance_after_four_epochs(esc10, tmp_path):
    done = train(
        "esc10",
        f"--data.dir={esc10}",
        f"--workdir={tmp_path / 'run'}",
        "--num_epochs=4",
        "--optimizer.warmup_steps=20",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    # Chance is one in ten.
    assert history[-1]["accuracy"] >= 0.3
    assert history[-1]["mean_average_precision"] >= 0.35
