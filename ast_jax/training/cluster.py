"""Finds the place of this process in a pod, from arguments, the environment or the cluster."""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from ast_jax.errors import InputError, first_line

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


class ProcessPlacement(NamedTuple):
    """The place of a process in a pod.

    Attributes:
        host: of the first process, as all processes reach it.
        port: of the coordinator there.
        num_processes: number of processes.
        process_id: index of this process.
        local_device_ids: the devices of the host that this process uses; None for all, or those
            of JAX_LOCAL_DEVICE_IDS.
    """

    host: str
    port: int
    num_processes: int
    process_id: int
    local_device_ids: list[int] | None = None

    @property
    def coordinator(self) -> str:
        """HOST:PORT of the coordinator, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def resolve_placement(
    coordinator: str,
    num_processes: int | None,
    process_id: int | None,
    cluster: bool,
    start_timeout: float,
) -> ProcessPlacement | None:
    """Returns the placement of this process; None without any argument or variable.

    Arguments and errors are those of `connect`.
    """
    address, count, index = (os.environ.get(name, "") for name in VARIABLES)
    coordinator = coordinator or address
    num_processes = _parse_int(count, VARIABLES[1]) if num_processes is None else num_processes
    process_id = _parse_int(index, VARIABLES[2]) if process_id is None else process_id
    given = (bool(coordinator), num_processes is not None, process_id is not None)
    if not (any(given) or cluster):
        return None
    if not (all(given) or cluster):
        raise InputError(
            "--coordinator, --num-processes and --process-id belong together (or the variables "
            f"{', '.join(VARIABLES)}); give all three, or --distributed on a cluster"
        )
    from jax._src.clusters import ClusterEnv  # no public name

    try:
        found, num_processes, process_id, device_ids = (
            ClusterEnv.auto_detect_unset_distributed_params(
                coordinator or None, num_processes, process_id, None, None, int(start_timeout)
            )
        )
    except (RuntimeError, ValueError, OSError, LookupError) as error:
        raise InputError(
            f"the settings of the cluster cannot be read ({first_line(error)}); give "
            f"--coordinator, --num-processes and --process-id"
        ) from None
    if found is None or num_processes is None or process_id is None:
        raise InputError(
            "--distributed finds no cluster here (Cloud TPU, SLURM, Open MPI, Kubernetes); start "
            "the processes by the cluster's launcher, or give --coordinator, --num-processes and "
            "--process-id"
        )
    if num_processes < 1:
        raise InputError(f"--num-processes is {num_processes}; give 1 or more")
    if not 0 <= process_id < num_processes:
        raise InputError(f"--process-id is {process_id}; give 0 to {num_processes - 1}")
    host, _, port = found.rpartition(":")
    if (
        not re.fullmatch(r"[^\s/]+", host)
        or not re.fullmatch(r"\d{1,5}", port)
        or not 0 < int(port) < 65536
    ):
        raise InputError(f"--coordinator is '{found}'; give HOST:PORT of the first process")
    if device_ids is not None and "SLURM_STEP_NODELIST" in os.environ:
        device_ids = slurm_devices(os.environ)
    if os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        device_ids = None
    device_ids = None if device_ids is None else list(device_ids)
    return ProcessPlacement(host.strip("[]"), int(port), num_processes, process_id, device_ids)


def slurm_devices(environment: Mapping[str, str]) -> list[int] | None:
    """Returns the GPUs of this host that a task of SLURM uses; None for all that it sees.

    JAX assigns one GPU per task by the task's index on the host, even if the host has one task, or
    if SLURM already restricts which GPUs a task sees (`--gpus-per-task`).

    Args:
        environment: the variables of the task.

    Raises:
        InputError: there are fewer GPUs than tasks on the host.
    """
    tasks: list[int] = []  # on each node; "2(x3),1" is 2, 2, 2, 1
    for part in environment.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        number, _, times = part.rstrip(")").partition("(x")
        tasks += [int(number or 1)] * int(times or 1)
    node = int(environment.get("SLURM_NODEID", 0))
    tasks_here = tasks[node] if node < len(tasks) else 1
    own = "SLURM_GPUS_PER_TASK" in environment
    own |= "gres/gpu" in environment.get("SLURM_TRES_PER_TASK", "")
    visible = [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if tasks_here == 1 or own or len(visible) == 1:
        return None
    if visible and len(visible) < tasks_here:
        raise InputError(
            f"{len(visible)} GPUs do not suffice for {tasks_here} tasks on this host; give "
            f"--ntasks-per-node of at most {len(visible)}"
        )
    each = len(visible) // tasks_here or 1
    first = int(environment.get("SLURM_LOCALID", 0)) * each
    return list(range(first, first + each))


def _parse_int(text: str, name: str) -> int | None:
    if text and not text.isdecimal():
        raise InputError(f"{name} is '{text}'; give a whole number")
    return int(text) if text else None
