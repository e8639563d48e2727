import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import flax
import jax
import numpy as np
import pytest

import ast_jax
from ast_jax.errors import InputError
from ast_jax.runs import logging


@pytest.fixture
def checkout(tmp_path):
    """Returns a repository with one file, one commit and one tag."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "module.py").write_text("1\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "module.py")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    git(folder, *identity, "commit", "--quiet", "-m", "first")
    git(folder, *identity, "tag", "-m", "first", "v1.0")
    return folder


def git(folder, *arguments):
    # Ignores the repository of a git hook that runs the tests, and the user's settings.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, check=True, capture_output=True
    )
    return done.stdout.decode().strip()


def test_a_session_has_versions_devices_and_start_time():
    before = datetime.now(UTC) - timedelta(seconds=1)
    run = logging.describe_run()
    assert json.loads(json.dumps(run, allow_nan=False)) == run
    started = datetime.fromisoformat(run["started"])
    assert before <= started <= datetime.now(UTC)
    assert started.utcoffset() == timedelta(0)
    assert run["versions"]["python"] == sys.version.split()[0]
    assert run["versions"]["ast_jax"] == ast_jax.__version__
    assert run["versions"]["jax"] == jax.__version__
    assert run["versions"]["flax"] == flax.__version__
    assert run["versions"]["numpy"] == np.__version__
    assert None not in run["versions"].values()
    assert run["backend"] == "cpu"
    assert run["device_kind"] == "cpu"
    assert run["device_count"] == 8  # set in conftest.py
    assert run["process_count"] == 1
    assert run["hostname"]


def test_a_session_without_git_and_packages_is_described(monkeypatch):
    def missing(*arguments, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    monkeypatch.setattr(logging, "PACKAGES", ("no-such-package-of-ours",))
    run = logging.describe_run()
    assert run["git_commit"] is None
    assert run["git_dirty"] is None
    assert run["versions"]["no-such-package-of-ours"] is None


def test_git_state_is_the_hash_and_marks_changes(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    assert logging.git_state(checkout / "module.py") == (commit, False)
    (checkout / "results.txt").write_text("of a run\n")
    assert logging.git_state(checkout / "module.py") == (commit, False)
    (checkout / "module.py").write_text("2\n")
    assert logging.git_state(checkout / "module.py") == (commit, True)


def test_a_repository_around_an_installed_package_is_ignored(checkout):
    installed = checkout / "env" / "ast_jax"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert logging.git_state(installed / "__init__.py") == (None, None)


def test_the_repository_of_a_git_hook_is_ignored(checkout, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(checkout, other)
    (other / "module.py").write_text("2\n")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert logging.git_state(checkout / "module.py")[1] is False


def test_git_state_is_none_without_repository_or_commit(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("")
    assert logging.git_state(file) == (None, None)
    assert logging.git_state(tmp_path / "no such folder" / "module.py") == (None, None)
    if shutil.which("git"):
        git(tmp_path, "init", "--quiet")
        git(tmp_path, "add", "module.py")
        assert logging.git_state(file) == (None, None)


def test_a_hanging_or_broken_git_is_ignored(tmp_path, monkeypatch):
    program = tmp_path / "git"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(logging, "GIT_SECONDS", 0.2)
    for script in ("exec sleep 60", r"printf '\377'", "exit 1"):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        assert logging.git_state(tmp_path / "module.py") == (None, None)


def scalars(folder):
    """Reads event files as {step: {name: value}} and checks that all are scalars."""
    import tensorflow as tf

    found: dict[int, dict[str, float]] = {}
    for file in sorted(Path(folder).iterdir()):
        for event in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(event)
            for value in event.summary.value:
                assert value.WhichOneof("value") == "simple_value"  # a float32
                found.setdefault(event.step, {})[value.tag] = value.simple_value
    return found


def test_scalars_round_trip_and_none_values_are_skipped(tmp_path):
    with logging.ScalarWriter(tmp_path / "events") as writer:
        writer.write(1, {"loss": 0.5, "evaluation/mAP": None, "evaluation/d": float("inf")})
        writer.write(
            20, {"loss": np.float32(0.25), "evaluation/mAP": 1, "evaluation/d": float("nan")}
        )
    assert scalars(tmp_path / "events") == {
        1: {"loss": 0.5},
        20: {"loss": 0.25, "evaluation/mAP": 1},
    }


def test_a_resumed_run_appends_scalars(tmp_path):
    for step in (1, 2):
        writer = logging.ScalarWriter(tmp_path)
        writer.write(step, {"loss": step})
        writer.close()
    assert scalars(tmp_path) == {1: {"loss": 1}, 2: {"loss": 2}}


def test_scalars_of_a_failed_run_are_kept(tmp_path):
    def run():
        with logging.ScalarWriter(tmp_path) as writer:
            writer.write(1, {"loss": 0.5})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert scalars(tmp_path) == {1: {"loss": 0.5}}


def test_the_writer_does_not_import_tensorflow(tmp_path):
    code = (
        "import sys; from ast_jax.runs.logging import ScalarWriter\n"
        f"with ScalarWriter({str(tmp_path)!r}) as writer: writer.write(1, {{'loss': 0.5}})\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_scalars_that_cannot_be_written_are_reported_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/events: scalars cannot be written \("):
        logging.ScalarWriter(tmp_path / "file" / "events")
