"""Connects the processes of a pod: one per host, or one per accelerator."""

import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import jax
from jax.experimental import multihost_utils

from ast_jax.errors import INTERRUPTED, InputError, first_line
from ast_jax.training import coordinator as coordinator_module
from ast_jax.training.cluster import ProcessPlacement, resolve_placement
from ast_jax.training.coordinator import (
    END_SECONDS,
    INTERRUPT_SECONDS,
    START_SECONDS,
    Connection,
    enable_keep_alive,
    listen,
)

# After an error of a collective, for the coordinator to name the process that caused it. It takes
# 30 s to notice that a machine was switched off.
ATTRIBUTION_SECONDS = 45.0
# After another process failed, for this one to end by itself before `on_failure` is called.
GRACE_SECONDS = 10.0


class Pod:
    """Context of a process of a pod; within it the failure of another process is an `InputError`.

    Where the main thread waits for a process that has ended, `on_failure` is called in a thread,
    `GRACE_SECONDS` after the failure.

    Args:
        connection: to the coordinator, after its `start`.
        coordinator: the process of the coordinator, if this one has started it.
        on_failure: is called with a sentence that names the process; should end this one.

    Attributes:
        failure: the sentence, '' before a failure.
    """

    def __init__(
        self,
        connection: Connection,
        coordinator: subprocess.Popen | None,
        on_failure: Callable[[str], None],
    ):
        self.failure = ""
        self._connection, self._coordinator = connection, coordinator
        self._failed, self._ended = threading.Event(), threading.Event()
        self._on_failure = on_failure
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self.failure:
            message = self._connection.receive()
            if message is None:
                message = {"failure": "the coordinator of the pod (of process 0) has disappeared"}
            self.failure = str(message.get("failure", ""))
        self._failed.set()
        if not self._ended.wait(GRACE_SECONDS):
            self._leave()
            self._on_failure(self.failure)

    def _leave(self) -> None:
        """Disconnects, and waits until a coordinator that this process has started is not needed.

        Launchers kill what their task leaves behind, and the others would abort with the
        coordinator, which hosts JAX's service.
        """
        with suppress(OSError):
            self._connection.socket.shutdown(socket.SHUT_RDWR)
        if self._coordinator:
            assert self._coordinator.stdout is not None
            with selectors.DefaultSelector() as selector:
                selector.register(self._coordinator.stdout, selectors.EVENT_READ)  # its end
                selector.select(INTERRUPT_SECONDS + END_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if error is None:  # JAX waits for the others at exit
            self._connection.send(status=0)
            return
        blamed = False
        if isinstance(error, Exception):
            # Collectives with a process that has ended raise this, or wait forever.
            collective = isinstance(error, jax.errors.JaxRuntimeError)
            collective &= "RESOURCE_EXHAUSTED" not in str(error)
            blamed = self._failed.wait(ATTRIBUTION_SECONDS if collective else 1)
        self._ended.set()
        message = str(error)
        if not isinstance(error, InputError):
            message = f"{type(error).__name__}: {first_line(error)}"
        status = INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
        self._connection.send(status=status, message=message)
        self._leave()
        if blamed and str(error) not in self.failure:  # unless both report the same
            raise InputError(self.failure) from None


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
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID:

        with connect(cluster=True):
            fit(config)

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
    if not 0 < start_timeout < 1e6:
        raise InputError(f"--start-timeout is {start_timeout}; give seconds, such as 300")
    placement = resolve_placement(coordinator, num_processes, process_id, cluster, start_timeout)
    if placement is None:
        return None
    started = _start_coordinator(placement, start_timeout) if placement.process_id == 0 else None
    connection = join(placement, start_timeout, started)
    pod = Pod(connection, started, on_failure or _exit)
    # JAX's preemption service would take SIGTERM from `PreemptionHandler`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            placement.coordinator,
            placement.num_processes,
            placement.process_id,
            placement.local_device_ids,
            cluster_detection_method="deactivate",
            # The coordinator hosts the service. JAX's own, of process 0, stays without clients.
            coordinator_bind_address="localhost:0",
        )
        # The first collective connects the processes and, on CPUs, waits 30 s at most; later ones
        # wait for as long as a process downloads or uploads.
        multihost_utils.sync_global_devices("connected")
    except (RuntimeError, ValueError) as error:
        failure = InputError(
            f"the processes of the run cannot connect ({first_line(error)}); check that each of "
            f"them reaches --coordinator {placement.coordinator}"
        )
        pod.__exit__(InputError, failure, None)
        raise failure from None
    return pod


def _exit(failure: str) -> None:
    sys.stderr.write(f"{failure}\n")
    sys.stderr.flush()
    os._exit(1)


def join(
    placement: ProcessPlacement, seconds: float, started: subprocess.Popen | None = None
) -> Connection:
    """Connects to the coordinator and waits until all processes have.

    Args:
        placement: of this process.
        seconds: for all processes to start.
        started: the coordinator's process, in the first process.

    Raises:
        InputError: not all processes have started in time, or their settings differ.
    """
    host = "localhost" if started else placement.host
    deadline = time.monotonic() + seconds
    while True:
        try:
            sock = socket.create_connection((host, placement.port), timeout=10)
            break
        except (OSError, UnicodeError) as error:
            if time.monotonic() > deadline or (started and started.poll() is not None):
                raise InputError(
                    f"process 0 did not answer at {placement.coordinator} within {seconds:g} s "
                    f"({error}); check that it has started and not ended, and that this machine "
                    f"reaches it"
                ) from None
            time.sleep(0.5)
    enable_keep_alive(sock)
    sock.settimeout(seconds + 30)  # the coordinator answers within `seconds`
    connection = Connection(sock)
    connection.send(
        process=placement.process_id, of=placement.num_processes, host=socket.gethostname()
    )
    answer = connection.receive()
    if answer is None or not answer.get("start"):
        closed = (
            f"the coordinator at {placement.coordinator} has closed the connection; see the "
            f"messages of process 0, or choose another port"
        )
        raise InputError(str((answer or {}).get("failure", closed)))
    sock.settimeout(None)
    return connection


def _start_coordinator(placement: ProcessPlacement, seconds: float) -> subprocess.Popen:
    try:
        listener = listen(placement.port)
    except OSError as error:
        raise InputError(
            f"port {placement.port} of --coordinator cannot be used here "
            f"({error.strerror or error}); choose another"
        ) from None
    with listener:
        arguments = [str(listener.fileno()), str(placement.num_processes), str(seconds)]
        return subprocess.Popen(
            [sys.executable, "-P", coordinator_module.__file__, *arguments],
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            start_new_session=True,  # Ctrl-C reaches the processes of the pod only
        )
