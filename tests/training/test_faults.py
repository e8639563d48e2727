"""Interrupted runs resume exactly: kills, signals, full disks, damaged records, dying workers.

Each run is a `train.py` process. Its final files must equal those of an undisturbed run.
"""

import contextlib
import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from ast_jax.checkpoint.format import load_checkpoint
from ast_jax.checkpoint.load import find_checkpoint, step_folders
from ast_jax.config import FrontendConfig, PreparedData
from ast_jax.config_files import load_config
from ast_jax.data.prepare.run_builder import prepare
from ast_jax.data.synthetic import make_synthetic
from ast_jax.errors import InputError
from ast_jax.training.loop import fit
from tests.small_run import history_of

ROOT = Path(__file__).parents[2]
STEPS = 24  # of a run, which evaluates after 12 and 24
TIMEOUT = 120  # seconds, generous for a busy machine

CONFIG = '''
import os
import resource
import time
from pathlib import Path

from ast_jax.config import AugmentConfig, SyntheticData
from tests.small_run import small


def get_config():
    if "PROGRESS" in os.environ:
        report_progress(Path(os.environ["PROGRESS"]))
    if "FILE_SIZE_LIMIT" in os.environ:
        full_disk(int(os.environ["FILE_SIZE_LIMIT"]))
    return small(
        workdir="",
        data=SyntheticData(train_clips=5, evaluation_clips=1),
        augment=AugmentConfig(frequency_mask=8, time_mask=16, mixup=0.5),
        num_epochs=4,
        evaluate_every=2,
        max_to_keep=1000,
    )


def report_progress(folder):
    """Writes a file to the folder at each step and evaluation, and slows both down.

    If the folder has a file `fill`, the disk is full from the first evaluation on.
    """
    from ast_jax.data.batches import EvaluationBatches
    from ast_jax.runs.progress import EpochBar

    add_wait, make = EpochBar.add_wait, EvaluationBatches.__call__
    steps = []

    def slow_wait(self, seconds):
        (folder / f"step {len(steps)}").touch()
        steps.append(None)
        time.sleep(0.2)
        add_wait(self, seconds)

    def slow_make(self, *args):
        (folder / "evaluation").touch()
        time.sleep(1)
        if (folder / "fill").exists():
            full_disk(50)
        return make(self, *args)

    EpochBar.add_wait, EvaluationBatches.__call__ = slow_wait, slow_make


def full_disk(size):
    """Makes larger files fail as on a full disk; Python ignores SIGXFSZ."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
'''


class Runs:
    """Starts runs of one configuration with a shared compilation cache."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "config.py").write_text(CONFIG)
        self.started = []
        self.environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

    def start(self, workdir, *fields, progress=None, file_size_limit=None):
        """Starts a run in a new session and returns its process."""
        environment = self.environment.copy()
        if progress:
            environment["PROGRESS"] = str(progress)
        if file_size_limit:
            environment["FILE_SIZE_LIMIT"] = str(file_size_limit)
        config = str(self.folder / "config.py")
        fields = [f"--{field}" for field in (f"workdir={workdir}", *fields)]
        process = subprocess.Popen(
            [sys.executable, ROOT / "train.py", config, *fields],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def close(self):
        """Kills the processes that a failed test left."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def run(self, workdir, *fields):
        """Runs to the end; returns the exit status and the standard error."""
        return wait_for_exit(self.start(workdir, *fields))


def wait_for_exit(process):
    """Waits for all processes of a run; returns its exit status and standard error."""
    _, message = process.communicate(timeout=TIMEOUT)
    wait_until(lambda: not session_processes(process.pid))
    return process.returncode, message


def wait_until(condition, pause=0.001):
    """Polls until `condition()` is true."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(pause)


def session_processes(number):
    """Returns the running processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session_id = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(session_id) == number and state != "Z":
            found.append(int(stat.parent.name))
    return found


def shared_memory(process):
    """Returns the shared memory files that a process has mapped."""
    return set(re.findall(r"/dev/shm/\S+", Path(f"/proc/{process.pid}/maps").read_text()))


def assert_equal(params, expected):
    jax.tree.map(np.testing.assert_array_equal, params, expected)


class Undisturbed:
    """An undisturbed run: its files, and the parameters after each step."""

    def __init__(self, workdir, seconds):
        self.workdir, self.seconds = workdir, seconds
        self.params = {int(f.name): load_checkpoint(f).params for f in step_folders(workdir)}
        assert list(self.params) == list(range(1, STEPS + 1))

    def check_interrupted(self, workdir):
        """Checks that the checkpoints of an interrupted run are right; returns the newest step."""
        folders = step_folders(workdir)
        for folder in folders:
            assert_equal(load_checkpoint(folder).params, self.params[int(folder.name)])
        found = find_checkpoint(workdir) if workdir.exists() else None
        assert (found and found.name) in ({folder.name for folder in folders} | {None, "model"})
        return int(folders[-1].name) if folders else 0

    def check_finished(self, workdir):
        """Checks that a resumed run has the same result and files as this one."""
        expected, found = (load_checkpoint(w / "model").params for w in (self.workdir, workdir))
        assert_equal(found, expected)
        assert_equal(found, self.params[STEPS])
        assert history_of(workdir) == history_of(self.workdir)
        for name in ("results.json", "per_class.csv", "predictions.csv", "worst.csv"):
            assert (workdir / name).read_bytes() == (self.workdir / name).read_bytes(), name
        left = {x.relative_to(workdir).parts[0] for x in workdir.glob("*")}
        assert left == {x.relative_to(self.workdir).parts[0] for x in self.workdir.glob("*")}
        assert not [x.name for x in (workdir / "checkpoints").iterdir() if not x.name.isdecimal()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with contextlib.closing(Runs(tmp_path_factory.mktemp("runs"))) as runs:
        yield runs


@pytest.fixture(scope="module")
def undisturbed(runs):
    workdir = runs.folder / "undisturbed" / "run"
    began = time.monotonic()
    status, message = runs.run(workdir, "checkpoint_every_steps=1")
    assert (status, message) == (0, "")
    return Undisturbed(workdir, time.monotonic() - began)


def temporary(workdir):
    """Returns the checkpoints that are being written."""
    folder = workdir / "checkpoints"
    names = os.listdir(folder) if folder.exists() else []
    return [name for name in names if "orbax-checkpoint-tmp" in name]


def kill(process, workdir, moment, ahead, delay):
    """Kills a run some steps later, during a save, or some time after its start."""
    goal = len(step_folders(workdir)) + ahead
    if moment != "start":
        wait_until(lambda: len(step_folders(workdir)) >= goal or process.poll() is not None)
    if moment == "save":
        wait_until(lambda: temporary(workdir) or process.poll() is not None)
    time.sleep(delay)
    memory = shared_memory(process)
    saving = temporary(workdir)
    process.kill()
    assert wait_for_exit(process)[0] == -signal.SIGKILL
    wait_until(lambda: not any(Path(name).exists() for name in memory))
    return saving


def kill_and_resume(runs, undisturbed, workdir, rounds):
    """Kills a run once per (moment, steps, delay, workers), then resumes it to the end."""
    workdir.parent.mkdir()  # a run killed at its start has not created it
    for moment, ahead, delay, workers in rounds:
        process = runs.start(workdir, "checkpoint_every_steps=1", f"data.workers={workers}")
        saving = kill(process, workdir, moment, ahead, delay)
        at = undisturbed.check_interrupted(workdir)
        with (workdir.parent / "killed").open("a") as log:
            log.write(f"{moment} +{delay:.3f} s, {workers} workers, saving {saving}: at {at}\n")
    status, message = runs.run(workdir, "checkpoint_every_steps=1")
    assert (status, message) == (0, "")
    undisturbed.check_finished(workdir)


@pytest.mark.slow
def test_a_run_killed_twice_resumes_exactly(runs, undisturbed, tmp_path):
    rng = random.Random(0)
    rounds = [("save", 3, rng.uniform(0, 0.1), 1), ("steps", 4, rng.uniform(0, 0.3), 0)]
    kill_and_resume(runs, undisturbed, tmp_path / "here" / "run", rounds)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_run_killed_at_five_random_moments_resumes_exactly(runs, undisturbed, tmp_path, seed):
    rng = random.Random(seed)
    late = undisturbed.seconds / 2
    rounds = []
    for moment, longest in [("start", late), ("save", 0.1), ("steps", 0.5), ("save", 0.2)]:
        rounds.append((moment, rng.randint(1, 5), rng.uniform(0, longest), rng.randrange(3)))
    rounds.append(("start", 0, rng.uniform(late / 2, late), rng.randrange(3)))
    rng.shuffle(rounds)
    kill_and_resume(runs, undisturbed, tmp_path / "here" / "run", rounds)


STOPPED = re.compile(r"\s*ast-jax: stopped; run the same command again to resume in (\S+)\n")


class Disturbed:
    """A run that is interrupted repeatedly, with checks of its checkpoints after each time."""

    def __init__(self, runs, undisturbed, folder):
        self.runs, self.undisturbed, self.folder = runs, undisturbed, folder
        self.workdir = folder / "run"
        self.at = 0
        self.starts = 0

    def start(self, *fields, file_size_limit=None):
        """Starts the run; returns its process and the folder where it reports its progress."""
        progress = self.folder / f"progress {self.starts}"
        progress.mkdir()
        self.starts += 1
        return self.runs.start(
            self.workdir, *fields, progress=progress, file_size_limit=file_size_limit
        ), progress

    def wait_stopped(self, process, steps):
        """Waits for a stop on request; the saved steps grew by one of `steps`."""
        status, message = wait_for_exit(process)
        match = STOPPED.fullmatch(message)
        assert match, message
        assert (status, match[1]) == (130, str(self.workdir))
        self.check_saved(steps)

    def wait_failed(self, process, steps):
        """Waits for a failure and returns its message; the saved steps grew by one of `steps`."""
        status, message = wait_for_exit(process)
        assert status == 1
        assert re.fullmatch(r"ast-jax: [^\n]+\n", message), message
        self.check_saved(steps)
        return message

    def check_saved(self, steps):
        before, self.at = self.at, self.undisturbed.check_interrupted(self.workdir)
        assert self.at - before in steps
        assert not (self.workdir / "model").exists()

    def finish(self):
        """Resumes the run to the end and compares the result."""
        status, message = self.runs.run(self.workdir)
        assert (status, message) == (0, "")
        self.undisturbed.check_finished(self.workdir)


@pytest.fixture
def disturbed(runs, undisturbed, tmp_path):
    return Disturbed(runs, undisturbed, tmp_path)


def has_started(progress, step):
    return lambda: (progress / f"step {step}").exists()


def children(process):
    """Returns the worker processes of a run."""
    lines = {
        pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in session_processes(process.pid)
    }
    return [pid for pid, line in lines.items() if b"spawn_main" in line]


@pytest.mark.slow
def test_a_run_stopped_by_a_signal_and_a_full_disk_resumes_exactly(disturbed):
    # Without the signal, the first save is at the first evaluation, after 12 steps.
    process, progress = disturbed.start()
    wait_until(has_started(progress, 3))
    process.terminate()
    disturbed.wait_stopped(process, steps=[3, 4])

    process, progress = disturbed.start("checkpoint_every_steps=1", file_size_limit=50_000)
    message = disturbed.wait_failed(process, steps=[0])
    assert str(disturbed.workdir / "checkpoints") in message
    assert os.strerror(errno.EFBIG) in message

    disturbed.finish()


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_with_one_sentence_and_it_resumes(disturbed):
    process, progress = disturbed.start("data.workers=1")
    wait_until(has_started(progress, 3))
    (worker,) = children(process)
    os.kill(worker, signal.SIGKILL)
    message = disturbed.wait_failed(process, steps=[0])
    assert "died (exit code -9)" in message
    disturbed.finish()


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_stops_run_and_workers_cleanly(disturbed):
    process, progress = disturbed.start("data.workers=2")
    wait_until(has_started(progress, 3))
    os.killpg(process.pid, signal.SIGINT)
    disturbed.wait_stopped(process, steps=[3, 4])
    disturbed.finish()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_an_evaluation(disturbed, number):
    process, progress = disturbed.start()
    wait_until((progress / "evaluation").exists)
    process.send_signal(number)
    disturbed.wait_stopped(process, steps=[12])
    assert not (disturbed.workdir / "history.json").exists()
    disturbed.finish()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_first_compilation_stops_after_that_step(disturbed, number):
    process, progress = disturbed.start()
    wait_until(has_started(progress, 0))
    time.sleep(1)
    assert not has_started(progress, 1)()
    process.send_signal(number)
    disturbed.wait_stopped(process, steps=[1])
    disturbed.finish()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_during_a_save_leaves_no_partial_checkpoint(disturbed, number):
    process, progress = disturbed.start()
    wait_until(has_started(progress, 3))
    process.send_signal(number)
    wait_until(lambda: temporary(disturbed.workdir))
    process.send_signal(number)
    status, message = wait_for_exit(process)
    if status == -signal.SIGTERM and number == signal.SIGTERM:
        assert message == ""
    elif message.endswith("stopped; nothing was saved yet\n"):  # it was the first save
        assert (status, disturbed.workdir.exists()) == (130, False)
    else:
        match = STOPPED.fullmatch(message)
        assert match, message
        assert (status, match[1]) == (130, str(disturbed.workdir))
    disturbed.check_saved([0, 3, 4])
    disturbed.finish()


@pytest.mark.slow
def test_a_disk_full_during_an_evaluation_loses_only_that_evaluation(disturbed):
    process, progress = disturbed.start("checkpoint_every_steps=6")
    (progress / "fill").touch()
    message = disturbed.wait_failed(process, steps=[6, 12])
    assert str(disturbed.workdir) in message
    assert os.strerror(errno.EFBIG) in message
    process, progress = disturbed.start(file_size_limit=50)
    message = disturbed.wait_failed(process, steps=[0])
    assert str(disturbed.workdir) in message
    disturbed.finish()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Returns the folder of a prepared set."""
    folder = tmp_path_factory.mktemp("prepared")
    data = make_synthetic(5, 1, seed=0)
    lines = ["path,labels,split"]
    for split, clips in (("train", data.train), ("test", data.evaluation)):
        for i, (waveform, name) in enumerate(zip(clips.waveforms, clips.names, strict=True)):
            soundfile.write(folder / f"{split}{i}.wav", waveform, 16000)
            lines.append(f"{split}{i}.wav,{name.split()[0]},{split}")
    (folder / "list.csv").write_text("\n".join(lines))
    return prepare("csv", folder, folder / "out").folder


@pytest.mark.slow
def test_a_damaged_record_is_named_and_the_run_resumes_after_a_repair(runs, prepared, tmp_path):
    data = shutil.copytree(prepared, tmp_path / "csv" / prepared.name)
    (file,) = data.glob("*train.array_record*")
    config = load_config(runs.folder / "config.py")
    config.data = PreparedData(dir=str(data))
    config.workdir = str(tmp_path / "run")
    config.frontend = FrontendConfig(mean=-5, std=4)
    config.num_epochs, config.checkpoint_every_steps = 2, 1
    good = file.read_bytes()
    middle = len(good) // 2
    file.write_bytes(good[:middle] + bytes(8) + good[middle + 8 :])
    for config.data.workers in (0, 1):
        message = rf"^{re.escape(str(file))}: cannot be read \([^\n]+$"
        with pytest.raises(InputError, match=message):
            fit(config)
    reached = step_folders(tmp_path / "run")
    assert reached
    file.write_bytes(good)
    fit(config)
    assert len(step_folders(tmp_path / "run")) == 12
    assert (tmp_path / "run" / "results.json").exists()
