"""Runs `train.py` as a user does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
        (["--config=configs/demo.py", "--config.optimizer.learning_rat=1"], "learning_rat"),
        (["--config=configs/demo.py", "--config.optimiser.b1=1"], "optimiser"),
        (["--config=configs/demo.py", "--config.batch_size=many"], "many"),
        (["--config=configs/demo.py", "--batch_size=3"], "batch_size"),
        (["--config=configs/none.py"], "none.py"),
        ([], "--config"),
        (["--config=configs/esc10.py", "--config.data.dir=/nowhere"], "/nowhere/meta/esc50.csv"),
        (["--config=configs/demo.py", "--config.model.max_length=8"], "max_length 8"),
    ],
)
def test_an_input_error_prints_one_sentence(tmp_path, flags, named):
    workdir = tmp_path / "run"
    if flags:
        flags = [*flags, f"--config.workdir={workdir}"]
    done = train(*flags)
    assert done.returncode == 1
    (message,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert message.startswith("train.py: ")
    assert named in message
    assert not workdir.exists()


@pytest.mark.slow
def test_esc10_is_above_chance_after_four_epochs(esc10, tmp_path):
    done = train(
        "--config=configs/esc10.py",
        f"--config.data.dir={esc10}",
        f"--config.workdir={tmp_path / 'run'}",
        "--config.num_epochs=4",
        "--config.optimizer.warmup_steps=20",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    # Chance is one in ten.
    assert history[-1]["accuracy"] >= 0.3
    assert history[-1]["mean_average_precision"] >= 0.35
