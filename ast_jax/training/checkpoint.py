"""A run's folder: its configuration, and checkpoints to go on from."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from ast_jax.checkpoint import CONFIG_FILE
from ast_jax.config import TrainConfig
from ast_jax.errors import InputError
from ast_jax.json_file import read_json
from ast_jax.training.step import TrainState

RUN_FILE = "run.json"


class Progress(NamedTuple):
    """How far a run is: epochs finished, and a row of results for each evaluation."""

    epochs: int
    history: list[dict[str, Any]]


def check_workdir(config: TrainConfig) -> Path:
    """The run's folder, if it is free or of this very run; writes nothing.

    Raises:
        InputError: the folder holds something else, or a run of another configuration.
    """
    workdir = Path(config.workdir).absolute()
    file = workdir / RUN_FILE
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir}: is a file; choose another --config.workdir")
    if file.exists():
        before, now = read_json(file), _run_fields(config)
        if before != now:
            raise InputError(
                f"{workdir}: holds a run with another {_first_difference(before, now)}; choose "
                f"another --config.workdir, or remove this one"
            )
    elif workdir.exists() and any(workdir.iterdir()):
        raise InputError(f"{workdir}: exists and is no run of ours; choose another folder")
    return workdir


def claim_workdir(workdir: Path, config: TrainConfig) -> None:
    """Makes the run's folder and writes down whose it is.

    Raises:
        InputError: it cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        fields = json.dumps(_run_fields(config), indent=2)
        (workdir / RUN_FILE).write_text(fields + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{workdir}: cannot be written ({error.strerror})") from None


def _run_fields(config: TrainConfig) -> dict[str, Any]:
    """What makes a run this run, as JSON gives it back."""
    fields = config.to_dict()
    del fields["workdir"]
    return json.loads(json.dumps(fields))


def _first_difference(before: Any, now: Any) -> str:
    if not isinstance(before, dict) or not isinstance(now, dict):
        return "configuration"
    for name in now:
        if before.get(name) != now[name]:
            if isinstance(now[name], dict):
                return f"{name}.{_first_difference(before.get(name), now[name])}"
            return f"{name} ({before.get(name)}, not {now[name]})"
    return "configuration"


class RunCheckpoints:
    """The newest checkpoint of a run, each a folder that `ast_jax.load` takes as it is."""

    def __init__(self, workdir: Path, description: dict[str, Any]):
        self.description = description
        handlers = ocp.DefaultCheckpointHandlerRegistry()
        json_file = ocp.JsonCheckpointHandler(filename=CONFIG_FILE)
        handlers.add("config", ocp.args.JsonSave, json_file)
        handlers.add("config", ocp.args.JsonRestore, json_file)
        self.manager = ocp.CheckpointManager(
            workdir / "checkpoints",
            options=ocp.CheckpointManagerOptions(max_to_keep=1),
            handler_registry=handlers,
        )

    def save(self, state: TrainState, progress: Progress) -> None:
        """Writes a checkpoint in the background; the state's arrays are copied first."""
        self.manager.save(
            int(state.step),
            args=ocp.args.Composite(
                config=ocp.args.JsonSave(self.description),
                params=ocp.args.StandardSave(state.params),
                opt_state=ocp.args.StandardSave(state.opt_state),
                progress=ocp.args.JsonSave(progress._asdict()),
            ),
        )

    def restore(self, start: TrainState) -> tuple[TrainState, Progress]:
        """The newest checkpoint, laid out over devices as `start`; `start` if there is none."""
        step = self.manager.latest_step()
        if step is None:
            return start, Progress(0, [])
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, start)
        restored = self.manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(abstract.params),
                opt_state=ocp.args.StandardRestore(abstract.opt_state),
                progress=ocp.args.JsonRestore(),
            ),
        )
        count = jax.device_put(jnp.asarray(step, jnp.int32), start.step.sharding)
        state = TrainState(restored.params, restored.opt_state, count)
        return state, Progress(**restored.progress)

    def close(self) -> None:
        """Waits until everything is written."""
        self.manager.wait_until_finished()
        self.manager.close()
