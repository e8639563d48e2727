"""Tests the README's first command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_the_demo_reaches_95_percent_and_classifies_unseen_sounds(tmp_path):
    run = tmp_path / "demo"
    command = [sys.executable, "train.py", "demo", f"--workdir={run}"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=900)
    assert json.loads((run / "history.json").read_text())[-1]["accuracy"] >= 0.95
    sounds = sorted(str(path) for path in (run / "unseen").glob("*.wav"))
    command = [sys.executable, "-m", "ast_jax.cli.main", "classify", *sounds]
    command += ["--checkpoint", str(run), "--top-k", "1", "--json"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    results = json.loads(done.stdout)
    right = [Path(r["file"]).stem == r["labels"][0]["label"] for r in results]
    assert len(right) >= 8
    assert sum(right) >= len(right) - 1
