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
from ast_jax.training.step import TrainState

RUN_FILE = "run.json"


class Progress(NamedTuple):
    """How far a run is: epochs finished, and a row of results for each evaluation."""

    epochs: int
    history: list[dict[str, Any]]


def claim_workdir(config: TrainConfig) -> Path:
    """The run's folder, new or of this very run.

    Raises:
        InputError: the folder holds something else, or a run of another configuration.
    """
    workdir = Path(config.workdir).absolute()
    fields = {k: v for k, v in config.to_dict().items() if k != "workdir"}
    fields = json.loads(json.dumps(fields))
    file = workdir / RUN_FILE
    if file.exists():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            raise InputError(f"{file}: damaged; remove {workdir} or choose another") from None
        if before != fields:
            name = _first_difference(before, fields)
            raise InputError(
                f"{workdir}: holds a run with another {name}; choose another --config.workdir, "
                f"or remove this one"
            )
    elif workdir.is_dir() and any(workdir.iterdir()):
        raise InputError(f"{workdir}: exists and is no run of ours; choose another folder")
    elif workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir}: is a file; choose another folder")
    else:
        workdir.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    return workdir


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
