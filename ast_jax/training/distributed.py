"""Connects the processes of a pod: one per host, or one per accelerator."""

import os

import jax

from ast_jax.errors import InputError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def connect(
    coordinator: str = "",
    num_processes: int | None = None,
    process_id: int | None = None,
    cluster: bool = False,
) -> bool:
    """Connects this process to the others of its run. Call it before anything else of JAX.

    Arguments that are not given are read from the environment variables
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Args:
        coordinator: HOST:PORT of the first process, as all processes reach it.
        num_processes: number of processes.
        process_id: index of this process, from 0.
        cluster: detect all three from the cluster: Cloud TPU, SLURM, Open MPI or Kubernetes.

    Returns:
        Whether there are other processes; without any argument or variable there are none.

    Raises:
        InputError: the settings are incomplete, or the other processes cannot be reached.
    """
    address, count, number = (os.environ.get(name, "") for name in VARIABLES)
    coordinator = coordinator or address
    num_processes = _parse_int(count, VARIABLES[1]) if num_processes is None else num_processes
    process_id = _parse_int(number, VARIABLES[2]) if process_id is None else process_id
    given = (bool(coordinator), num_processes is not None, process_id is not None)
    if not (any(given) or cluster):
        return False
    if not (all(given) or cluster):
        raise InputError(
            "--coordinator, --num_processes and --process_id belong together (or the variables "
            f"{', '.join(VARIABLES)}); give all three, or --distributed on a cluster"
        )
    if num_processes is not None and not 0 <= (process_id or 0) < num_processes:
        raise InputError(f"--process_id is {process_id}; give 0 to {num_processes - 1}")
    # JAX's preemption service would take SIGTERM from `PreemptionHandler`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator or None, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the processes of the run cannot connect ({str(error).splitlines()[0]}); check that "
            f"all have started, with one --coordinator that each of them reaches"
        ) from None
    return True


def _parse_int(text: str, name: str) -> int | None:
    if text and not text.isdecimal():
        raise InputError(f"{name} is '{text}'; give a whole number")
    return int(text) if text else None
