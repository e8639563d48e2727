"""Trains a model: python train.py --config=configs/demo.py [--config.FIELD=VALUE ...].

Every field, with what it means, is in ast_jax/config.py and (of --config.model)
ast_jax/models/config.py; configs/ has experiments to start from.
"""

import dataclasses
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from ast_jax.cli.command import complain, run_command
from ast_jax.config import RENAMED, TrainConfig, renamed_hint
from ast_jax.errors import INTERRUPTED, nearest
from ast_jax.training.coordinator import START_SECONDS

_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of the first of several processes; or JAX_COORDINATOR_ADDRESS"
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "number of processes that train together; or JAX_NUM_PROCESSES"
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "index of this process; or JAX_PROCESS_ID")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "detect the three above from the cluster (Cloud TPU, SLURM, …)"
)
_START_TIMEOUT = flags.DEFINE_float(
    "start_timeout", START_SECONDS, "seconds for all of several processes to start"
)
_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="a Python file whose get_config() returns a TrainConfig"
)


def main(argv: Sequence[str]) -> None:
    """Trains as the flags say."""
    if len(argv) > 1:
        sys.exit(
            f"train.py: unrecognized argument '{argv[1]}'; set fields with --config.FIELD=VALUE"
        )
    config = _CONFIG.value
    if not isinstance(config, TrainConfig):
        flag = flags.FLAGS["config"]
        file = f" not {config_flags.get_config_filename(flag)}," if flag.present else ""
        sys.exit(
            f"train.py: --config takes a Python file whose get_config() returns a TrainConfig,"
            f"{file} such as configs/demo.py"
        )
    logging.set_verbosity(logging.WARNING)  # Orbax logs every file otherwise

    pod = None

    def train() -> None:
        nonlocal pod
        # Imported here, as spawned processes import this file.
        from ast_jax.cli.compilation_cache import enable_compilation_cache
        from ast_jax.training.cross_validation import cross_validate
        from ast_jax.training.distributed import connect
        from ast_jax.training.loop import fit

        pod = connect(
            _COORDINATOR.value,
            _NUM_PROCESSES.value,
            _PROCESS_ID.value,
            _DISTRIBUTED.value,
            _START_TIMEOUT.value,
            on_failure=exit_on_failure,
        )
        if pod is None:
            # In a pod only the first process writes to the cache; set JAX_COMPILATION_CACHE_DIR to
            # a shared folder there.
            enable_compilation_cache()
        with pod or nullcontext():
            (fit if config.data.fold else cross_validate)(config)

    try:
        status = run_command("train.py", train, config.workdir)
    except Exception:
        if pod is None:
            raise
        traceback.print_exc()
        status = 1
    if status == INTERRUPTED:
        complain("\ntrain.py", f"stopped; run the same command again to resume in {config.workdir}")
    if pod and status:
        flush_and_exit(status)  # JAX would wait for the others of the pod
    sys.exit(status)


def exit_on_failure(failure: str) -> None:
    """Ends this process because another one of its pod has failed."""
    flush_and_exit(complain("train.py", failure))


def flush_and_exit(status: int) -> None:
    """Exits without the handlers of libraries, which may wait forever."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses absl's flags; a misspelled or ill-typed field exits with one sentence."""
    for argument in argv[1:]:
        if argument.startswith("--config."):
            check_field(argument.removeprefix("--").partition("=")[0])
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        fields = {field.name for field in dataclasses.fields(TrainConfig)}
        hint = f"; set fields with --config.{error.flagname}=VALUE"
        sys.exit(f"train.py: {error}{hint if error.flagname in fields else ''}")
    except flags.Error as error:
        # ml_collections adds the traceback of the configuration's file.
        first, *rest = str(error).strip().splitlines()
        reason = f" {rest[-1]}{renamed_hint(rest[-1])}" if rest else ""
        sys.exit(f"train.py: {first}{reason}")
    except (Exception, SystemExit) as error:  # the configuration's file is anyone's code
        reason = " ".join(str(error).split()) + renamed_hint(str(error))
        sys.exit(f"train.py: the --config file cannot be used ({type(error).__name__}: {reason})")


def check_field(flag: str) -> None:
    """Exits with the nearest name if `config.a.b` is no field of `TrainConfig`."""
    group: Any = TrainConfig
    parent = "config"
    for name in flag.split(".")[1:]:
        names = {field.name: field.type for field in dataclasses.fields(group)}
        if name not in names:
            near = RENAMED.get(name) or nearest(name, names)
            sys.exit(f"train.py: {parent} has no field '{name}'; did you mean {near}?")
        parent, group = f"{parent}.{name}", names[name]
        if not dataclasses.is_dataclass(group):
            return
    sys.exit(f"train.py: {parent} is a group of fields; set one of them, --{parent}.FIELD=VALUE")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
