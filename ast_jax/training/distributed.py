"""Connects the processes of a pod: one per host, or one per accelerator."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from ast_jax.config import TrainConfig
from ast_jax.data.clips import DataSet
from ast_jax.errors import InputError, first_line
from ast_jax.runs.logging import describe_run
from ast_jax.runs.workdir import describe_data, first_difference
from ast_jax.training import coordinator as coordinator_process
from ast_jax.training.coordinator import INTERRUPTED, Connection, keep_alive, listen

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
START_SECONDS = 300.0
# After an error of a collective, for the coordinator to name the process that caused it. It takes
# 30 s to notice that a machine was switched off.
BLAME_SECONDS = 45.0
# After another process failed, for this one to end by itself before `on_failure` is called.
GRACE_SECONDS = 10.0


class Pod:
    """Context of a process of a pod; within it the failure of another process is an `InputError`.

    Where the main thread waits for a process that is no more, `on_failure` is called in a thread,
    `GRACE_SECONDS` after the failure.

    Args:
        connection: to the coordinator, after its `start`.
        on_failure: is called with a sentence that names the process; should end this one.
    """

    def __init__(self, connection: Connection, on_failure: Callable[[str], None]):
        self.connection = connection
        self.failure = ""
        self._failed, self._ended = threading.Event(), threading.Event()
        self._on_failure = on_failure
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self.failure:
            messages = self.connection.receive()
            if messages is None:
                self.failure = "the coordinator of the pod, started by process 0, has disappeared"
            for message in messages or []:
                self.failure = str(message.get("failure", ""))
        self._failed.set()
        if not self._ended.wait(GRACE_SECONDS):
            self._on_failure(self.failure)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception):
            # Collectives with a process that is no more raise this, or wait forever.
            collective = isinstance(error, jax.errors.JaxRuntimeError)
            another = self._failed.wait(BLAME_SECONDS if collective else 1)
            if another and str(error) not in self.failure:  # or both found the same
                self._ended.set()
                raise InputError(self.failure) from None
        name = "" if kind is None or issubclass(kind, InputError) else f"{kind.__name__}: "
        status = 0 if error is None else INTERRUPTED if kind is KeyboardInterrupt else 1
        if status:  # without errors, JAX still waits for the others at exit
            self._ended.set()
        self.connection.send(status=status, message=f"{name}{error}"[:2000])


class Cluster(NamedTuple):
    """The place of this process in a pod.

    Attributes:
        coordinator: HOST:PORT.
        num_processes: number of processes.
        process_id: index of this process.
        local_device_ids: the devices of the host that this process uses; None for all.
    """

    coordinator: str
    num_processes: int
    process_id: int
    local_device_ids: list[int] | None = None


def connect(
    coordinator: str = "",
    num_processes: int | None = None,
    process_id: int | None = None,
    cluster: bool = False,
    start_timeout: float = START_SECONDS,
    on_failure: Callable[[str], None] | None = None,
) -> Pod | None:
    """Connects this process to the others of its run. Call it before anything else of JAX.

    Arguments that are not given are read from the environment variables
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Args:
        coordinator: HOST:PORT of the first process, as all processes reach it.
        num_processes: number of processes.
        process_id: index of this process, from 0.
        cluster: detect all three from the cluster: Cloud TPU, SLURM, Open MPI or Kubernetes.
        start_timeout: in seconds, for all processes to start.
        on_failure: see `Pod`; by default it prints the sentence and exits with status 1.

    Returns:
        The pod, a context for what the process does in it; None without any argument or variable.

    Raises:
        InputError: the settings are incomplete, or the other processes cannot be reached.
    """
    place = find_place(coordinator, num_processes, process_id, cluster, start_timeout)
    if place is None:
        return None
    connection = join(place, start_timeout)
    # JAX's preemption service would take SIGTERM from `PreemptionHandler`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            place.local_device_ids,
            cluster_detection_method="deactivate",
            # The coordinator hosts the service. JAX's own, of process 0, stays without clients.
            coordinator_bind_address="localhost:0",
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the processes of the run cannot connect ({first_line(error)}); check that each of "
            f"them reaches --coordinator {place.coordinator}"
        ) from None
    return Pod(connection, on_failure or _exit)


def _exit(failure: str) -> None:
    sys.stderr.write(f"{failure}\n")
    sys.stderr.flush()
    os._exit(1)


def find_place(
    coordinator: str,
    num_processes: int | None,
    process_id: int | None,
    cluster: bool,
    seconds: float = START_SECONDS,
) -> Cluster | None:
    """Returns this process's place from the arguments of `connect`, the environment or a cluster.

    Raises:
        InputError: the settings are incomplete or no cluster is detected.
    """
    address, count, number = (os.environ.get(name, "") for name in VARIABLES)
    coordinator = coordinator or address
    num_processes = _parse_int(count, VARIABLES[1]) if num_processes is None else num_processes
    process_id = _parse_int(number, VARIABLES[2]) if process_id is None else process_id
    given = (bool(coordinator), num_processes is not None, process_id is not None)
    if not (any(given) or cluster):
        return None
    local_device_ids = None
    if cluster and not all(given):
        from jax._src.clusters import ClusterEnv  # no public name

        found = ClusterEnv.auto_detect_unset_distributed_params(
            coordinator or None, num_processes, process_id, None, None, int(seconds)
        )
        coordinator, num_processes, process_id = found[0] or "", *found[1:3]
        local_device_ids = list(found[3]) if found[3] else None
        if local_device_ids and "SLURM_STEP_NODELIST" in os.environ:
            local_device_ids = slurm_devices(os.environ)
        if not coordinator or num_processes is None or process_id is None:
            raise InputError(
                "--distributed finds no cluster here (Cloud TPU, SLURM, Open MPI, Kubernetes); "
                "start the processes by the cluster's launcher, or give --coordinator, "
                "--num_processes and --process_id"
            )
    elif not all(given):
        raise InputError(
            "--coordinator, --num_processes and --process_id belong together (or the variables "
            f"{', '.join(VARIABLES)}); give all three, or --distributed on a cluster"
        )
    assert num_processes is not None
    assert process_id is not None
    if not 0 <= process_id < num_processes:
        raise InputError(f"--process_id is {process_id}; give 0 to {num_processes - 1}")
    if not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise InputError(f"--coordinator is '{coordinator}'; give HOST:PORT of the first process")
    return Cluster(coordinator, num_processes, process_id, local_device_ids)


def slurm_devices(environment: Mapping[str, str]) -> list[int] | None:
    """Returns the GPUs of this host that a task of SLURM uses; None for all that it sees.

    JAX alone takes one GPU a task, by the task's index on the host, also where one task has the
    host for itself, or where SLURM shows each task its own (`--gpus-per-task`).
    """
    tasks: list[int] = []  # on each node; "2(x3),1" is 2, 2, 2, 1
    for part in environment.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        number, _, times = part.rstrip(")").partition("(x")
        tasks += [int(number)] * int(times or 1)
    here = tasks[int(environment.get("SLURM_NODEID", 0))]
    if here == 1 or "SLURM_GPUS_PER_TASK" in environment or "SLURM_TRES_PER_TASK" in environment:
        return None
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    each = len(visible.split(",")) // here if visible else 1
    first = int(environment.get("SLURM_LOCALID", 0)) * each
    return list(range(first, first + each)) or None


def join(place: Cluster, seconds: float) -> Connection:
    """Connects to the coordinator, which the first process starts, and waits for the others.

    Raises:
        InputError: not all processes have started in time, or their settings differ.
    """
    host, _, port = place.coordinator.rpartition(":")
    started = None
    if place.process_id == 0:
        host = "localhost"
        started = _start_coordinator(int(port), place.num_processes, seconds)
    deadline = time.monotonic() + seconds
    connection = None
    while connection is None:
        try:
            made = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
            keep_alive(made)
            connection = Connection(made)
        except (OSError, OverflowError) as error:
            if time.monotonic() > deadline or (started and started.poll() is not None):
                raise InputError(
                    f"process 0 did not answer at {place.coordinator} within {seconds:g} s "
                    f"({error}); check that it has started and that this machine reaches it"
                ) from None
            time.sleep(0.5)
    connection.socket.settimeout(None)
    connection.send(process=place.process_id, of=place.num_processes, host=socket.gethostname())
    connection.socket.settimeout(seconds + 30)  # the coordinator answers within `seconds`
    messages = connection.receive()
    if not messages or "failure" in messages[0]:
        raise InputError(
            messages[0]["failure"]
            if messages
            else f"the coordinator at {place.coordinator} has closed the connection; another "
            f"run may use the port: choose another"
        )
    connection.socket.settimeout(None)
    return connection


def check_agreement(config: TrainConfig, data: DataSet) -> None:
    """Checks that all processes of a pod have the same configuration, code, classes and sounds.

    Folders of sounds and the number of workers may differ. Collective: each process must call it.

    Raises:
        InputError: in every process, if one differs; names the first difference.
    """
    if jax.process_count() == 1:
        return
    run = describe_run()
    fields = config.to_dict()
    for name in ("dir", "workers"):
        del fields["data"][name]
    mine = {
        "version": {**run["versions"], "git_commit": run["git_commit"]},
        "config": fields,
        "data": describe_data(data) | {"sounds": digest_sounds(data)},
    }
    texts = _gather_text(json.dumps([socket.gethostname(), mine]))
    (_, first), *others = (json.loads(text) for text in texts)
    for process, (host, other) in enumerate(others, 1):
        if other != first:
            raise InputError(
                f"process {process} ({host}) differs from process 0 in "
                f"{first_difference(first, other)}; start all with the same configuration, code "
                f"and data"
            )


def digest_sounds(data: DataSet) -> str:
    """Returns a digest of all sounds in memory; those of a prepared set have `data.digest`."""
    digest = hashlib.blake2b(data.digest.encode(), digest_size=16)
    if not data.digest:
        for clips in (data.train, data.evaluation, data.test):
            for waveform in clips.waveforms if clips else ():
                digest.update(np.ascontiguousarray(waveform).data)
    return digest.hexdigest()


def _gather_text(text: str) -> list[str]:
    """Returns the texts of all processes. Collective."""
    encoded = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(encoded))).ravel()
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(encoded)] = encoded
    rows = multihost_utils.process_allgather(padded)
    return [row[:n].tobytes().decode() for row, n in zip(rows, lengths, strict=True)]


def _start_coordinator(port: int, count: int, seconds: float) -> subprocess.Popen:
    try:
        listener = listen(port)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"port {port} of --coordinator cannot be used here ({error}); choose another"
        ) from None
    with listener:
        arguments = [str(listener.fileno()), str(count), str(seconds)]
        return subprocess.Popen(
            [sys.executable, "-P", coordinator_process.__file__, *arguments],
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            start_new_session=True,  # Ctrl-C reaches the processes of the pod only
        )


def _parse_int(text: str, name: str) -> int | None:
    if text and not text.isdecimal():
        raise InputError(f"{name} is '{text}'; give a whole number")
    return int(text) if text else None
