"""`ast-jax train`: trains a model, or resumes a run."""

import json
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from ast_jax.cli.command import complain, flush_and_exit, naming, run_command
from ast_jax.cli.configs import DataKind
from ast_jax.config import TrainConfig
from ast_jax.errors import INTERRUPTED
from ast_jax.fields import check_fields
from ast_jax.urls import is_remote


class PodOptions(NamedTuple):
    """Addresses and numbers of the processes of a pod; see `distributed.connect`."""

    coordinator: str
    num_processes: int | None
    process_id: int | None
    distributed: bool
    start_timeout: float


def train_command(config_type: Any) -> Callable[..., int]:
    """Returns the command; `config_type` is that of `ast_jax.cli.configs`."""

    def train(
        config: config_type,
        *,
        data_kind: DataKind = None,
        print_config: bool = False,
        coordinator: str = "",
        num_processes: int | None = None,
        process_id: int | None = None,
        distributed: bool = False,
        start_timeout: float = 300.0,
    ) -> int:
        """Train a model, or resume an interrupted run.

        Args:
            config: what to train: one of these, or a file, CONFIG.py or CONFIG.json
            data_kind: another kind of data; its fields replace those below
            print_config: print the configuration as JSON, which can be trained, and stop
            coordinator: HOST:PORT of the first of several processes; or JAX_COORDINATOR_ADDRESS
            num_processes: number of processes that train together; or JAX_NUM_PROCESSES
            process_id: index of this process; or JAX_PROCESS_ID
            distributed: detect the three above from the cluster (Cloud TPU, SLURM, …)
            start_timeout: seconds for all of several processes to start
        """
        if print_config:
            check_fields(config)
            print(json.dumps(config.to_dict(), indent=2))
            return 0
        pod = PodOptions(coordinator, num_processes, process_id, distributed, start_timeout)
        return run_training(config, pod)

    return train


def run_training(config: TrainConfig, options: PodOptions) -> int:
    """Trains, alone or in a pod; returns the exit status."""
    logging.set_verbosity(logging.WARNING)  # Orbax logs every file otherwise
    pod = None

    def train() -> None:
        nonlocal pod
        from ast_jax.cli.compilation_cache import enable_compilation_cache
        from ast_jax.training.cross_validation import cross_validate
        from ast_jax.training.distributed import connect
        from ast_jax.training.loop import fit

        pod = connect(*options, on_failure=exit_on_failure)
        if pod is None:
            # In a pod only the first process writes to the cache; set JAX_COMPILATION_CACHE_DIR to
            # a shared folder there.
            enable_compilation_cache()
        with pod or nullcontext(), naming(config.workdir):
            if config.runs_all_folds:
                cross_validate(config)
            else:
                fit(config)

    try:
        status = run_command(train)
    except Exception:
        if pod is None:
            raise
        traceback.print_exc()
        status = 1
    if status == INTERRUPTED:
        saved = is_remote(config.workdir) or Path(config.workdir).exists()
        what = f"run the same command again to resume in {config.workdir}"
        print(file=sys.stderr)  # ends the line that has the terminal's ^C
        complain(f"stopped; {what if saved else 'nothing was saved yet'}")
    if pod and status:
        flush_and_exit(status)  # JAX would wait for the others of the pod
    return status


def exit_on_failure(failure: str) -> None:
    """Ends this process because another one of its pod has failed."""
    flush_and_exit(complain(failure))
