"""Runs that are killed, asked to end, or let down by the disk, a recording or a worker.

Each is `train.py` in a process of its own, and in the end what it leaves must be, bit for bit,
what an undisturbed run leaves.
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
from ast_jax.config import load_config
from ast_jax.data.prepare.run_builder import prepare
from ast_jax.data.synthetic import make_synthetic
from ast_jax.errors import InputError
from ast_jax.training.loop import fit

ROOT = Path(__file__).parents[2]
STEPS = 24  # of the run; it evaluates after 12 and 24
PATIENCE = 120  # seconds, for a machine that is busy

CONFIG = '''
import os
import resource
import time
from pathlib import Path

from ast_jax.config import AugmentConfig, DataConfig, OptimizerConfig, TrainConfig
from ast_jax.models.config import ASTConfig


def get_config():
    if "TOLD" in os.environ:
        tell(Path(os.environ["TOLD"]))
    if "LARGEST" in os.environ:
        full_disk(int(os.environ["LARGEST"]))
    return TrainConfig(
        model=ASTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            frequency_stride=16,
            time_stride=16,
            max_length=64,
            num_mel_bins=32,
        ),
        data=DataConfig(kind="synthetic", train_clips=5, evaluation_clips=1),
        augment=AugmentConfig(frequency_mask=8, time_mask=16, mixup=0.5),
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=2),
        batch_size=8,
        num_epochs=4,
        evaluate_every=2,
        max_to_keep=1000,
    )


def tell(folder):
    """Leaves a file for each step and evaluation that begins, and takes a while over each.

    With a file `fill` in the folder the disk is full from the first evaluation on.
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
    """Has writes beyond a size fail, as they do on a disk that is full; Python ignores SIGXFSZ."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
'''


class Runs:
    """Starts runs of one configuration; the processes share what they compile."""

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

    def start(self, workdir, *fields, told=None, largest=None):
        """The run's process, the first of a session of its own."""
        environment = self.environment.copy()
        if told:
            environment["TOLD"] = str(told)
        if largest:
            environment["LARGEST"] = str(largest)
        config = f"--config={self.folder / 'config.py'}"
        fields = [f"--config.{field}" for field in (f"workdir={workdir}", *fields)]
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
        """Ends what a test that failed has left."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def run(self, workdir, *fields):
        """A run's exit status and what it says on the error stream."""
        return ended(self.start(workdir, *fields))


def ended(process):
    """A run's exit status and what it says on the error stream, once all its processes ended."""
    _, said = process.communicate(timeout=PATIENCE)
    until(lambda: not session(process.pid))
    return process.returncode, said


def until(happened, pause=0.001):
    """Waits for what `happened` tells of."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(pause)


def session(number):
    """The processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_session) == number and state != "Z":
            found.append(int(stat.parent.name))
    return found


def shared_memory(process):
    """The files of shared memory that a process has open."""
    return set(re.findall(r"/dev/shm/\S+", Path(f"/proc/{process.pid}/maps").read_text()))


def assert_equal(params, expected):
    jax.tree.map(np.testing.assert_array_equal, params, expected)


class Whole:
    """What an undisturbed run leaves: the parameters after each step, and its files."""

    def __init__(self, workdir, seconds):
        self.workdir, self.seconds = workdir, seconds
        self.params = {int(f.name): load_checkpoint(f).params for f in step_folders(workdir)}
        assert list(self.params) == list(range(1, STEPS + 1))

    def check_cut(self, workdir):
        """Whatever a run that was cut off offers is whole and right; returns its newest step."""
        folders = step_folders(workdir)
        for folder in folders:
            assert_equal(load_checkpoint(folder).params, self.params[int(folder.name)])
        found = find_checkpoint(workdir) if workdir.exists() else None
        assert (found and found.name) in ({folder.name for folder in folders} | {None, "model"})
        return int(folders[-1].name) if folders else 0

    def check_finished(self, workdir):
        """The result and all that is told of it are this run's, and no more is left."""
        expected, found = (load_checkpoint(w / "model").params for w in (self.workdir, workdir))
        assert_equal(found, expected)
        assert_equal(found, self.params[STEPS])
        for name in ("history.json", "history.csv", "results.json", "per_class.csv"):
            assert (workdir / name).read_bytes() == (self.workdir / name).read_bytes(), name
        left = {x.relative_to(workdir).parts[0] for x in workdir.glob("*")}
        assert left == {x.relative_to(self.workdir).parts[0] for x in self.workdir.glob("*")}
        assert not [x.name for x in (workdir / "checkpoints").iterdir() if not x.name.isdecimal()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with contextlib.closing(Runs(tmp_path_factory.mktemp("runs"))) as runs:
        yield runs


@pytest.fixture(scope="module")
def whole(runs):
    workdir = runs.folder / "whole" / "run"
    began = time.monotonic()
    status, said = runs.run(workdir, "checkpoint_every_steps=1")
    assert (status, said) == (0, "")
    return Whole(workdir, time.monotonic() - began)


def temporary(workdir):
    """The checkpoints that are being written."""
    folder = workdir / "checkpoints"
    names = os.listdir(folder) if folder.exists() else []
    return [name for name in names if "orbax-checkpoint-tmp" in name]


def kill(process, workdir, moment, ahead, delay):
    """Kills a run so many steps from now, while it saves, or so long after its start."""
    goal = len(step_folders(workdir)) + ahead
    if moment != "start":
        until(lambda: len(step_folders(workdir)) >= goal or process.poll() is not None)
    if moment == "save":
        until(lambda: temporary(workdir) or process.poll() is not None)
    time.sleep(delay)
    memory = shared_memory(process)
    saving = temporary(workdir)
    process.kill()
    assert ended(process)[0] == -signal.SIGKILL
    until(lambda: not any(Path(name).exists() for name in memory))
    return saving


def survive(runs, whole, workdir, rounds):
    """Kills a run again and again, (moment, steps, delay, workers) each, and lets it finish."""
    workdir.parent.mkdir()  # which a run that is killed at its start has not made
    for moment, ahead, delay, workers in rounds:
        process = runs.start(workdir, "checkpoint_every_steps=1", f"data.workers={workers}")
        saving = kill(process, workdir, moment, ahead, delay)
        at = whole.check_cut(workdir)
        with (workdir.parent / "killed").open("a") as log:
            log.write(f"{moment} +{delay:.3f} s, {workers} workers, saving {saving}: at {at}\n")
    status, said = runs.run(workdir, "checkpoint_every_steps=1")
    assert (status, said) == (0, "")
    whole.check_finished(workdir)


@pytest.mark.slow
def test_a_run_killed_twice_resumes_exactly(runs, whole, tmp_path):
    rng = random.Random(0)
    rounds = [("save", 3, rng.uniform(0, 0.1), 1), ("steps", 4, rng.uniform(0, 0.3), 0)]
    survive(runs, whole, tmp_path / "here" / "run", rounds)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_run_killed_at_five_random_moments_resumes_exactly(runs, whole, tmp_path, seed):
    rng = random.Random(seed)
    late = whole.seconds / 2
    rounds = []
    for moment, longest in [("start", late), ("save", 0.1), ("steps", 0.5), ("save", 0.2)]:
        rounds.append((moment, rng.randint(1, 5), rng.uniform(0, longest), rng.randrange(3)))
    rounds.append(("start", 0, rng.uniform(late / 2, late), rng.randrange(3)))
    rng.shuffle(rounds)
    survive(runs, whole, tmp_path / "here" / "run", rounds)


STOPPED = re.compile(r"\s*train\.py: stopped; run the same command again to resume in (\S+)\n")


class Disturbed:
    """One run, disturbed again and again; what it has saved is checked each time."""

    def __init__(self, runs, whole, folder):
        self.runs, self.whole, self.folder = runs, whole, folder
        self.workdir = folder / "run"
        self.at = 0
        self.starts = 0

    def start(self, *fields, largest=None):
        """The run's process, and the folder where it tells what it is at."""
        told = self.folder / f"told {self.starts}"
        told.mkdir()
        self.starts += 1
        return self.runs.start(self.workdir, *fields, told=told, largest=largest), told

    def stopped(self, process, steps):
        """The run has ended as it was asked to, after one of these numbers of steps more."""
        status, said = ended(process)
        match = STOPPED.fullmatch(said)
        assert match, said
        assert (status, match[1]) == (130, str(self.workdir))
        self.saved(steps)

    def failed(self, process, steps):
        """What the run said, in one sentence, as it failed; it had saved after these steps."""
        status, said = ended(process)
        assert status == 1
        assert re.fullmatch(r"train\.py: [^\n]+\n", said), said
        self.saved(steps)
        return said

    def saved(self, steps):
        before, self.at = self.at, self.whole.check_cut(self.workdir)
        assert self.at - before in steps
        assert not (self.workdir / "model").exists()

    def finish(self):
        """The run goes on to its end."""
        status, said = self.runs.run(self.workdir)
        assert (status, said) == (0, "")
        self.whole.check_finished(self.workdir)


@pytest.fixture
def disturbed(runs, whole, tmp_path):
    return Disturbed(runs, whole, tmp_path)


def begun(told, step):
    return lambda: (told / f"step {step}").exists()


def children(process):
    """The processes that make batches for a run."""
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in session(process.pid)}
    return [pid for pid, line in lines.items() if b"spawn_main" in line]


@pytest.mark.slow
def test_a_run_stopped_by_a_signal_and_a_full_disk_resumes_exactly(disturbed):
    # Nothing but the request makes a run save before its first evaluation, after 12 steps.
    process, told = disturbed.start()
    until(begun(told, 3))
    process.terminate()
    disturbed.stopped(process, steps=[3, 4])

    process, told = disturbed.start("checkpoint_every_steps=1", largest=50_000)
    said = disturbed.failed(process, steps=[0])
    assert str(disturbed.workdir / "checkpoints") in said
    assert os.strerror(errno.EFBIG) in said

    disturbed.finish()


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_with_one_sentence_and_it_resumes(disturbed):
    process, told = disturbed.start("data.workers=1")
    until(begun(told, 3))
    (worker,) = children(process)
    os.kill(worker, signal.SIGKILL)
    said = disturbed.failed(process, steps=[0])
    assert "died (exit code -9)" in said
    disturbed.finish()


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_stops_run_and_workers_cleanly(disturbed):
    process, told = disturbed.start("data.workers=2")
    until(begun(told, 3))
    os.killpg(process.pid, signal.SIGINT)
    disturbed.stopped(process, steps=[3, 4])
    disturbed.finish()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_an_evaluation(disturbed, number):
    process, told = disturbed.start()
    until((told / "evaluation").exists)
    process.send_signal(number)
    disturbed.stopped(process, steps=[12])
    assert not (disturbed.workdir / "history.json").exists()
    disturbed.finish()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_first_compilation_stops_after_that_step(disturbed, number):
    process, told = disturbed.start()
    until(begun(told, 0))
    time.sleep(1)
    assert not begun(told, 1)()
    process.send_signal(number)
    disturbed.stopped(process, steps=[1])
    disturbed.finish()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_during_a_save_leaves_no_partial_checkpoint(disturbed, number):
    process, told = disturbed.start()
    until(begun(told, 3))
    process.send_signal(number)
    until(lambda: temporary(disturbed.workdir))
    process.send_signal(number)
    status, said = ended(process)
    if status == -signal.SIGTERM and number == signal.SIGTERM:
        assert said == ""
    else:
        match = STOPPED.fullmatch(said)
        assert match, said
        assert (status, match[1]) == (130, str(disturbed.workdir))
    disturbed.saved([0, 3, 4])
    disturbed.finish()


@pytest.mark.slow
def test_a_disk_full_during_an_evaluation_loses_only_that_evaluation(disturbed):
    process, told = disturbed.start("checkpoint_every_steps=6")
    (told / "fill").touch()
    said = disturbed.failed(process, steps=[6, 12])
    assert str(disturbed.workdir) in said
    assert os.strerror(errno.EFBIG) in said
    process, told = disturbed.start(largest=50)
    said = disturbed.failed(process, steps=[0])
    assert str(disturbed.workdir) in said
    disturbed.finish()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of a prepared set."""
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
    fields = [f"data.dir={data}", "data.kind=prepared", f"workdir={tmp_path / 'run'}"]
    fields += ["frontend.mean=-5", "frontend.std=4", "num_epochs=2", "checkpoint_every_steps=1"]
    config = load_config(runs.folder / "config.py", fields)
    good = file.read_bytes()
    middle = len(good) // 2
    file.write_bytes(good[:middle] + bytes(8) + good[middle + 8 :])
    for config.data.workers in (0, 1):
        said = rf"^{re.escape(str(file))}: cannot be read \([^\n]+$"
        with pytest.raises(InputError, match=said):
            fit(config)
    reached = step_folders(tmp_path / "run")
    assert reached
    file.write_bytes(good)
    fit(config)
    assert len(step_folders(tmp_path / "run")) == 12
    assert (tmp_path / "run" / "results.json").exists()
