"""Training in several processes gives the same result as in one."""

import os
import re
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
from ast_jax.checkpoint.load import step_folders
from ast_jax.config_files import load_config
from ast_jax.errors import InputError
from ast_jax.training.cluster import VARIABLES, resolve_placement, slurm_devices
from ast_jax.training.distributed import connect
from ast_jax.training.loop import fit
from tests.small_run import history_of

ROOT = Path(__file__).parents[2]
CONFIG = """
from ast_jax.config import AugmentConfig, SyntheticData, OptimizerConfig
from ast_jax.runs import history, results
from tests.small_run import small

history.draw_loss = results.draw_confusion = results.draw_class_precisions = lambda *args: None

def get_config():
    return small(
        workdir="",
        data=SyntheticData(train_clips=4, evaluation_clips=1),
        augment=AugmentConfig(frequency_mask=8, time_mask=16, mixup=0.5),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        batch_size=16,
        num_epochs=2,
    )
"""


@pytest.fixture(scope="module")
def pod(tmp_path_factory, free_port):
    """Returns a function that runs `train.py` in several processes and returns their outputs."""
    folder = tmp_path_factory.mktemp("pod")
    (folder / "config.py").write_text(CONFIG)

    def start(workdir, processes, devices, *flags, second=()):
        port = free_port()
        environment = os.environ | {
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [sys.executable, "train.py", str(folder / "config.py")]
        command += [f"--workdir={workdir}", *flags]
        started = []
        for number in range(processes):
            if processes > 1:
                settings = (f"localhost:{port}", str(processes), str(number))
                environment |= dict(zip(VARIABLES, settings, strict=True))
            started.append(
                subprocess.Popen(
                    command + list(second) * (number == 1), cwd=ROOT, env=environment, text=True,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                )
            )  # fmt: skip
        return started

    def run(workdir, processes, devices, *flags):
        started = start(workdir, processes, devices, *flags)
        outputs = [process.communicate(timeout=400) for process in started]
        assert [process.returncode for process in started] == [0] * processes, outputs
        return [out for out, _ in outputs]

    run.start = start
    run.folder = folder
    return run


@pytest.fixture(scope="module")
def alone(pod, no_plots):
    """Returns the folder of the same run in one process with four devices."""
    config = load_config(pod.folder / "config.py")
    config.workdir = str(pod.folder / "alone")
    fit(config, devices=jax.devices()[:4])
    return pod.folder / "alone"


def same(one, other):
    """Asserts that losses of two histories agree to 1e-6, and metrics exactly."""
    ours, theirs = (history_of(folder) for folder in (one, other))
    for mine, yours in zip(ours, theirs, strict=True):
        for name in mine:
            if name.endswith("loss"):
                assert mine[name] == pytest.approx(yours[name], rel=1e-6), name
            else:
                assert mine[name] == yours[name], name
    return True


def test_two_processes_with_two_devices_match_one_with_four(pod, alone):
    first, second = pod(pod.folder / "two", 2, 2)
    assert same(pod.folder / "two", alone)
    assert "4 cpu" in first
    # Gloo's messages about its peers are interleaved.
    assert not [line for line in second.splitlines() if "peer ranks" not in line]
    assert len(list((pod.folder / "two" / "tensorboard").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "processes", "devices", "flags"),
    [
        ("four", 4, 1, []),
        ("pmap", 2, 2, ["--parallel=pmap"]),
        ("zero", 2, 2, ["--shard_optimizer"]),
        ("workers", 2, 2, ["--data.workers=1", "--frontend.on_device"]),
    ],
)
def test_any_distribution_over_processes_gives_the_same_run(
    pod, alone, name, processes, devices, flags
):
    if name == "workers":  # its waveforms are rounded to 16 bits
        alone = pod.folder / "alone on device"
        pod(alone, 1, 4, flags[1])
    pod(pod.folder / name, processes, devices, *flags)
    assert same(pod.folder / name, alone)


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_and_the_run_resumes_on_others(pod, alone):
    workdir = pod.folder / "interrupted"
    more = [
        "--num_epochs=60",
        "--evaluate_every=60",
        "--checkpoint_every_steps=30",
    ]
    started = pod.start(workdir, 2, 2, *more)
    while not step_folders(workdir) and all(process.poll() is None for process in started):
        time.sleep(0.1)
    started[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=200) for process in started]
    assert [process.returncode for process in started] == [130, 130], outputs
    assert not (workdir / "model").exists()
    uninterrupted = pod.folder / "uninterrupted"
    pod(workdir, 1, 1, *more)
    pod(uninterrupted, 1, 1, *more)
    ours, theirs = (history_of(x) for x in (workdir, uninterrupted))
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine["training_loss"] == pytest.approx(yours["training_loss"], rel=1e-5)
    ours, theirs = (load_checkpoint(x / "model").params for x in (workdir, uninterrupted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), ours, theirs)


@pytest.mark.slow
def test_sigterm_to_one_process_interrupts_evaluation_on_all(pod):
    workdir = pod.folder / "evaluating"
    started = pod.start(workdir, 2, 2, "--data.evaluation_clips=2000")
    while not step_folders(workdir) and all(process.poll() is None for process in started):
        time.sleep(0.1)  # the checkpoint is saved before the evaluation
    started[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=200) for process in started]
    assert [process.returncode for process in started] == [130, 130], outputs
    assert len(step_folders(workdir)) == 1
    assert not (workdir / "history.json").exists()


def wait_for_exit(started, seconds=120):
    """Returns exit statuses and what train.py messages on stderr; no process dumped its stack."""
    outputs = [process.communicate(timeout=seconds)[1] for process in started]
    for output in outputs:
        assert "Traceback" not in output
        assert "stack trace" not in output
    messages = [[x for x in out.splitlines() if x.startswith("ast-jax")] for out in outputs]
    return [process.returncode for process in started], ["".join(lines) for lines in messages]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--num_epochs=3", r"config\.num_epochs \(2, not 3\)"),
        ("--workdir={folder}/other", r"config\.workdir \(.*not .*/other\)"),
        ("--optimizer.learning_rate=0.1", r"config\.optimizer\.learning_rate"),
        ("--data.dir={folder}/second", r"data\.sounds"),
    ],
)
def test_a_difference_between_processes_is_named_by_all_before_the_first_step(pod, flag, named):
    for name, level in (("first", 0.1), ("second", 0.2)):
        for split, label in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
            folder = pod.folder / name / split / label
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(16):
                soundfile.write(folder / f"{i}.wav", np.full(8000, level), 16000)
    flags = ["--data.kind=folder", f"--data.dir={pod.folder / 'first'}"]
    workdir = pod.folder / "different"
    started = pod.start(workdir, 2, 1, *flags, second=[flag.format(folder=pod.folder)])
    statuses, messages = wait_for_exit(started)
    assert statuses == [1, 1]
    for line in messages:
        assert re.search(rf"process 1 .* differs from process 0 in {named}", line)
    assert not workdir.exists()


@pytest.mark.slow
def test_a_data_fault_of_one_process_is_reported_by_all(pod):
    flags = ["--data.kind=folder", "--data.dir=/nowhere"]
    statuses, messages = wait_for_exit(pod.start(pod.folder / "fault", 2, 1, second=flags))
    assert statuses == [1, 1]
    assert messages[1].startswith("ast-jax: /nowhere: no such folder")
    assert re.match(r"ast-jax: process 1 \(.+\) failed: /nowhere: no such folder", messages[0])


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_with_a_sentence(pod, killed):
    workdir = pod.folder / f"killed{killed}"
    more = ["--num_epochs=4000", "--evaluate_every=4000"]
    started = pod.start(workdir, 2, 1, *more, "--checkpoint_every_steps=20")
    while not step_folders(workdir) and all(process.poll() is None for process in started):
        time.sleep(0.1)
    started[killed].kill()
    statuses, messages = wait_for_exit(started, seconds=30)
    assert statuses[killed] == -signal.SIGKILL
    assert statuses[1 - killed] == 1
    assert re.match(rf"ast-jax: process {killed} \(.+\) has disappeared", messages[1 - killed])


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0, 1])
def test_a_process_that_does_not_start_is_named(pod, missing):
    started = pod.start(pod.folder / "missing", 2, 1, "--start-timeout=20")
    started[missing].kill()
    _, messages = wait_for_exit(started)
    expected = ["process 0 did not answer at localhost", "process 1 of 2 did not start within 20 s"]
    assert expected[missing] in messages[1 - missing]
    assert started[1 - missing].returncode == 1


def test_a_process_without_cluster_settings_is_alone(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert not connect()
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "localhost:1"}, "belong together"),
        ({"num_processes": 2, "process_id": 0}, "belong together"),
        ({"coordinator": "localhost:1", "num_processes": 2, "process_id": 2}, "give 0 to 1"),
        ({"coordinator": "localhost", "num_processes": 2, "process_id": 1}, "give HOST:PORT"),
        ({"coordinator": "http://a:1", "num_processes": 2, "process_id": 1}, "give HOST:PORT"),
        ({"coordinator": "a:99999", "num_processes": 2, "process_id": 1}, "give HOST:PORT"),
        ({"coordinator": "a:1", "num_processes": 0, "process_id": 0}, "num-processes is 0"),
        ({"cluster": True, "start_timeout": float("nan")}, "start-timeout is nan"),
        ({"cluster": True}, "finds no cluster here"),
    ],
)
def test_invalid_cluster_settings_are_refused(monkeypatch, given, message):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=message):
        connect(**given)


def test_a_variable_that_is_not_a_number_is_named(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(InputError, match="JAX_NUM_PROCESSES is 'two'"):
        connect()


@pytest.mark.parametrize(
    ("tasks", "node", "local", "more", "expected"),
    [
        ("1(x4)", 2, 0, {}, None),
        ("4(x2)", 1, 3, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [3]),
        ("2(x3),1", 1, 1, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [2, 3]),
        ("2(x3),1", 3, 0, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, None),
        ("4", 0, 2, {}, [2]),
        ("4", 0, 2, {"CUDA_VISIBLE_DEVICES": "0"}, None),
        ("2", 0, 1, {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_TRES_PER_TASK": "cpu=8"}, [1]),
        ("2", 0, 1, {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_TRES_PER_TASK": "gres/gpu=2"}, None),
        ("2", 0, 1, {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "2"}, None),
    ],
)
def test_a_slurm_task_uses_its_share_of_the_hosts_gpus(tasks, node, local, more, expected):
    variables = {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": str(node)}
    assert slurm_devices(variables | {"SLURM_LOCALID": str(local)} | more) == expected


def test_more_slurm_tasks_than_gpus_are_refused():
    variables = {"SLURM_STEP_TASKS_PER_NODE": "4", "CUDA_VISIBLE_DEVICES": "0,1,2"}
    with pytest.raises(InputError, match="3 GPUs do not suffice for 4 tasks"):
        slurm_devices(variables)


@pytest.fixture
def slurm(monkeypatch):
    """Sets the variables of the second of two tasks on a host with four GPUs."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    variables = {
        "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[3-4]", "SLURM_NTASKS": "4",
        "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
        "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_slurm_task_is_placed_with_and_without_explicit_settings(slurm, monkeypatch):
    placement = resolve_placement("", None, None, True, 300)
    assert placement == ("node3", placement.port, 4, 3, [2, 3])
    explicit = resolve_placement("[::1]:1234", 4, 3, False, 300)
    assert explicit == ("::1", 1234, 4, 3, [2, 3])
    assert explicit.coordinator == "[::1]:1234"  # as gRPC takes it
    assert placement.coordinator == f"node3:{placement.port}"
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "0")
    assert resolve_placement("a:1234", 4, 3, False, 300).local_device_ids is None


def test_settings_of_a_cluster_that_cannot_be_read_are_refused(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "seven")
    with pytest.raises(InputError, match="settings of the cluster cannot be read"):
        connect(cluster=True)
