import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import ast_jax.data.workers
from ast_jax.data.workers import AHEAD, make_in_processes
from ast_jax.errors import InputError

ROOT = Path(__file__).parents[2]


@dataclass
class Numbers:
    """Batches whose `origin` is their number and process; batch `bad` fails."""

    bad: int = -1
    how: str = ""

    def __call__(self, number, into=None):
        if number == self.bad:
            if self.how == "input":
                raise InputError(f"clip {number} cannot be used; leave it out")
            if self.how == "fault":
                raise KeyError(f"no clip {number}")
            if self.how == "long":
                raise KeyError("no clip " * 20_000)
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "exits":
                sys.exit(3)
        rng = np.random.default_rng(number)
        batch = {
            "odd": rng.integers(-99, 99, (3, 7, 5)).astype(np.int16),
            "floats": rng.random((4, 2), np.float32),
            "none": np.zeros((4, 0), np.float32),
            "origin": np.array([number, os.getpid()]),
        }
        for name in into or {}:
            into[name][...] = batch[name]
        return batch


class Recorded(SharedMemory):
    names: ClassVar[list[str]] = []

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.names.append(self.name)


@pytest.fixture(autouse=True)
def no_leaks(monkeypatch):
    monkeypatch.setattr(Recorded, "names", [])
    monkeypatch.setattr(ast_jax.data.workers, "SharedMemory", Recorded)
    yield
    assert not multiprocessing.active_children()
    for name in Recorded.names:
        with pytest.raises(FileNotFoundError):
            SharedMemory(name=name)


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_come_in_order_from_any_number_of_workers(workers):
    numbers = range(3, 30, 2)
    batches = list(make_in_processes(Numbers(), numbers, workers))
    assert [batch["origin"][0] for batch in batches] == list(numbers)
    for number, batch in zip(numbers, batches, strict=True):
        expected = Numbers()(number)
        assert list(batch) == list(expected)
        for name in ("odd", "floats", "none"):
            assert batch[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(batch[name], expected[name])
            batch[name] += 1  # writable by the caller
    makers = {batch["origin"][1] for batch in batches[1:]}
    assert len(makers) == workers
    assert os.getpid() not in makers


def test_memory_has_no_name_once_every_worker_has_made_a_batch():
    # A group of processes that is killed at once cannot remove names.
    batches = make_in_processes(Numbers(), range(9), 2)
    for _ in range(3):
        next(batches)
    assert len(Recorded.names) == 2
    for name in Recorded.names:
        with pytest.raises(FileNotFoundError):
            SharedMemory(name=name)
    assert [batch["origin"][0] for batch in batches] == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("input", InputError, "^clip 5 cannot be used; leave it out$"),
        ("fault", RuntimeError, r"(?s)process that makes batches failed:.*KeyError: 'no clip 5'"),
        ("long", RuntimeError, r"(?s)failed:.*KeyError: '(no clip ){20000}'"),
        ("killed", InputError, r"died \(exit code -9\).*lower data\.workers or batch_size"),
        ("exits", InputError, r"died \(exit code 3\)"),
    ],
)
def test_a_workers_error_reaches_the_caller_after_the_batches_before_it(how, kind, message):
    batches = make_in_processes(Numbers(bad=5, how=how), range(9), 1)
    assert [next(batches)["origin"][0] for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(kind, match=message) as caught:
        next(batches)
    assert caught.type is kind


def test_a_killed_idle_worker_raises():
    batches = make_in_processes(Numbers(), range(100), 1)
    next(batches)
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(InputError, match=r"died \(exit code -9\)"):
        list(batches)


def test_closing_early_ends_the_processes_and_frees_their_memory():
    batches = make_in_processes(Numbers(), range(10**9), 2)
    assert [next(batches)["origin"][0] for _ in range(2 * AHEAD + 3)] == list(range(2 * AHEAD + 3))
    assert len(multiprocessing.active_children()) == 2
    batches.close()  # `no_leaks` checks the rest


def test_no_more_workers_start_than_there_are_batches():
    batches = make_in_processes(Numbers(), range(2), 8)
    next(batches)
    assert len(multiprocessing.active_children()) == 1
    assert [batch["origin"][0] for batch in batches] == [1]


def test_one_batch_is_computed_in_this_process():
    (batch,) = make_in_processes(Numbers(), range(7, 8), 4)
    assert batch["origin"].tolist() == [7, os.getpid()]
    assert list(make_in_processes(Numbers(), range(0), 4)) == []


def test_an_error_in_the_first_batch_ends_the_processes():
    with pytest.raises(InputError, match="clip 0 cannot be used"):
        next(make_in_processes(Numbers(bad=0, how="input"), range(5), 2))


def test_too_little_shared_memory_raises_before_a_worker_dies(monkeypatch, tmp_path):
    monkeypatch.setattr(ast_jax.data.workers, "SHARED_MEMORY", tmp_path)
    little = namedtuple("Usage", "total free")(1 << 26, (1 << 20) - 1)
    monkeypatch.setattr(ast_jax.data.workers.shutil, "disk_usage", lambda folder: little)
    assert len(list(make_in_processes(Numbers(), range(3), 1))) == 3
    monkeypatch.setattr(ast_jax.data.workers, "AHEAD", 10**4)
    with pytest.raises(InputError, match=r"has 0 MiB free .* lower data\.workers or batch_size"):
        next(make_in_processes(Numbers(), range(3), 1))
    unlimited = little._replace(total=0, free=0)
    monkeypatch.setattr(ast_jax.data.workers.shutil, "disk_usage", lambda folder: unlimited)
    monkeypatch.setattr(ast_jax.data.workers, "AHEAD", AHEAD)
    assert len(list(make_in_processes(Numbers(), range(3), 1))) == 3


def test_batches_that_cannot_be_pickled_are_refused_at_once():
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        next(make_in_processes(lambda number: {}, range(5), 1))


UNFINISHED = """
from ast_jax.data.workers import make_in_processes
from tests.data.test_workers import Numbers

if __name__ == "__main__":
    batches = make_in_processes(Numbers(), range(10**9), 2)
    for _ in range(9):
        next(batches)
    print("taken")
"""


def test_a_program_can_exit_with_unread_batches(tmp_path):
    (tmp_path / "main.py").write_text(UNFINISHED)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "main.py")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "taken\n", "")


KILLED = """
import multiprocessing, os, signal
from ast_jax.data.workers import make_in_processes
from tests.data.test_workers import Numbers

if __name__ == "__main__":
    batches = make_in_processes(Numbers(), range(10**9), 2)
    for _ in range(9):
        next(batches)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "main.py").write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "main.py")]
    # The output is open until the last child ends.
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in run.stdout.split()]
    assert len(workers) == 2
    for _ in range(600):
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"{workers} still run")
