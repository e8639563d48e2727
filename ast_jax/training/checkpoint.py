"""A run's folder: its configuration, and checkpoints to go on from."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint import CONFIG_FILE, first_line, read_through
from ast_jax.config import TrainConfig
from ast_jax.data.clips import DataSet
from ast_jax.errors import InputError
from ast_jax.json_file import read_json
from ast_jax.training.step import TrainState

RUN_FILE = "run.json"


class Progress(NamedTuple):
    """How far a run is: epochs finished, and a row of results for each evaluation."""

    epochs: int
    history: list[dict[str, Any]]


def open_workdir(config: TrainConfig) -> tuple[Path, dict[str, Any] | None]:
    """The run's folder and what it says of the run, None if it is new; writes nothing.

    Raises:
        InputError: the folder holds something else, or a run of another configuration.
    """
    if "://" in config.workdir:
        raise InputError(f"workdir {config.workdir} is remote; runs go to a folder of this machine")
    workdir = Path(config.workdir).absolute()
    file = workdir / RUN_FILE
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir}: is a file; choose another --config.workdir")
    if not file.exists():
        if workdir.exists() and any(workdir.iterdir()):
            raise InputError(f"{workdir}: exists and is no run of ours; choose another folder")
        return workdir, None
    run = read_json(file)
    if not isinstance(run, dict) or not {"config", "data", "feature_extractor"} <= run.keys():
        raise InputError(f"{file}: damaged; remove {workdir} or choose another --config.workdir")
    if run["config"] != _fields(config):
        raise InputError(
            f"{workdir}: holds a run with another "
            f"{_first_difference(run['config'], _fields(config))}; choose another "
            f"--config.workdir, or remove this one"
        )
    return workdir, run


def claim_workdir(
    workdir: Path, config: TrainConfig, data: DataSet, extractor: ASTFeatureExtractor
) -> None:
    """Makes the run's folder and writes down whose it is.

    Raises:
        InputError: it cannot be written.
    """
    run = {
        "config": _fields(config),
        "data": describe_data(data),
        "feature_extractor": extractor.to_dict(),
    }
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / RUN_FILE).write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{workdir}: cannot be written ({error.strerror})") from None


def check_data(workdir: Path, run: dict[str, Any], data: DataSet) -> None:
    """Raises `InputError` if a run would go on with other clips than it began with."""
    before, now = run["data"], describe_data(data)
    if before != now:
        raise InputError(
            f"{workdir}: its run began with other recordings ({_first_difference(before, now)} "
            f"differs); choose another --config.workdir, or bring the recordings back"
        )


def describe_data(data: DataSet) -> dict[str, Any]:
    """The classes, and the number and a digest of the clips on either side."""
    description: dict[str, Any] = {"labels": data.labels}
    for side, clips in (("train", data.train), ("evaluation", data.evaluation)):
        targets = clips.targets
        digest = hashlib.sha256()
        for array in (
            [targets] if isinstance(targets, np.ndarray) else [targets.indices, targets.indptr]
        ):
            digest.update(array.tobytes())
        for name, length in zip(clips.names, clips.lengths(), strict=True):
            digest.update(f"{Path(name).name} {length} ".encode())
        description[side] = {"clips": len(clips.names), "digest": digest.hexdigest()}
    return description


def _fields(config: TrainConfig) -> dict[str, Any]:
    """What makes a run this run, as JSON gives it back."""
    fields = config.to_dict()
    del fields["workdir"]
    del fields["data"]["workers"]  # of which nothing depends but speed
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
        self.folder = workdir / "checkpoints"
        handlers = ocp.DefaultCheckpointHandlerRegistry()
        json_file = ocp.JsonCheckpointHandler(filename=CONFIG_FILE)
        handlers.add("config", ocp.args.JsonSave, json_file)
        handlers.add("config", ocp.args.JsonRestore, json_file)
        self.manager = ocp.CheckpointManager(
            self.folder,
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
        """The newest checkpoint, laid out over devices as `start`; `start` if there is none.

        Raises:
            InputError: the checkpoint is damaged.
        """
        step = self.manager.latest_step()
        if step is None:
            return start, Progress(0, [])
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, start)
        folder = self.folder / str(step)
        try:
            for part in ("params", "opt_state"):
                read_through(folder / part)
            restored = self.manager.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(abstract.params),
                    opt_state=ocp.args.StandardRestore(abstract.opt_state),
                    progress=ocp.args.JsonRestore(),
                ),
            )
        except Exception as error:  # of many kinds, see `load_checkpoint`
            raise InputError(
                f"{folder}: damaged or incomplete ({first_line(error)}); remove it and the run "
                f"goes on from the checkpoint before, or from the start"
            ) from None
        count = jax.device_put(jnp.asarray(step, jnp.int32), start.step.sharding)
        state = TrainState(restored.params, restored.opt_state, count)
        return state, Progress(**restored.progress)

    def close(self) -> None:
        """Waits until everything is written."""
        self.manager.wait_until_finished()
        self.manager.close()
