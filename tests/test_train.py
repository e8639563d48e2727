"""Runs `train.py` as a user does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ast_jax.data.prepare.run_builder import prepare

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


# A run on a prepared set whose batches worker processes make.
SCRIPT = """
import sys

from ast_jax.config import load_config
from ast_jax.training.loop import fit

if __name__ == "__main__":
    fit(load_config(sys.argv[1], sys.argv[2:]))
    sys.exit("tensorflow was imported" if "tensorflow" in sys.modules else 0)
"""


def test_a_training_process_with_workers_does_not_import_tensorflow(tmp_path):
    for i in range(6):
        soundfile.write(tmp_path / f"{i}.wav", np.sin(np.arange(12800) * (0.1 + i)), 16000)
    rows = [f"{i}.wav,{'ab'[i % 2]},{'train' if i < 4 else 'test'}" for i in range(6)]
    (tmp_path / "list.csv").write_text("\n".join(["path,labels,split", *rows]))
    prepare("csv", tmp_path, tmp_path / "prepared")
    (tmp_path / "script.py").write_text(SCRIPT)
    fields = [
        *("data.kind=prepared", f"data.dir={tmp_path}/prepared", "data.workers=1"),
        *(f"workdir={tmp_path}/run", "batch_size=2", "num_epochs=1", "optimizer.warmup_steps=0"),
        *("model.hidden_size=32", "model.num_attention_heads=2", "model.num_hidden_layers=1"),
    ]
    ran = subprocess.run(
        [sys.executable, tmp_path / "script.py", ROOT / "configs" / "demo.py", *fields],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
