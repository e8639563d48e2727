"""A run's folder: whose it is, where it ran, and its history.

    WORKDIR/run.json        the configuration, the clips' digests, the feature extractor
    WORKDIR/sessions.json   where and when it ran, an entry for each start
    WORKDIR/history.json    a row for each evaluation; also .csv, and loss.png
    WORKDIR/predictions/    of each evaluation, where they are ensembled
    WORKDIR/tensorboard/    scalars
    WORKDIR/checkpoints/    to go on from
    WORKDIR/model/          the result, when it is finished
    WORKDIR/results.json    its scores; also per_class.csv and pictures, and test/ the same

Written by the first process only; all read it.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.load import step_folders
from ast_jax.config import TrainConfig
from ast_jax.data.clips import DataSet
from ast_jax.errors import InputError
from ast_jax.io import read_json, write_json
from ast_jax.runs.logging import describe_run
from ast_jax.runs.plots import HISTORY_FILE

RUN_FILE = "run.json"
SESSIONS_FILE = "sessions.json"


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
        # A kill in the first moment leaves a temporary file.
        leftover = f".{RUN_FILE}."
        if workdir.exists() and any(not x.name.startswith(leftover) for x in workdir.iterdir()):
            raise InputError(f"{workdir}: exists and is no run of ours; choose another folder")
        return workdir, None
    run = read_json(file)
    if not isinstance(run, dict) or not {"config", "data", "feature_extractor"} <= run.keys():
        raise InputError(f"{file}: damaged; remove {workdir} or choose another --config.workdir")
    # A run of an older version lacks the fields that have come since, and had what is now default.
    run["config"] = _filled(run["config"], _fields(TrainConfig()))
    if run["config"] != _fields(config):
        raise InputError(
            f"{workdir}: holds a run with another "
            f"{_first_difference(run['config'], _fields(config))}; choose another "
            f"--config.workdir, or remove this one"
        )
    return workdir, run


@contextmanager
def acquire_workdir(
    workdir: Path,
    run: dict[str, Any] | None,
    config: TrainConfig,
    data: DataSet,
    extractor: ASTFeatureExtractor,
) -> Iterator[None]:
    """Holds a run's folder, a new one if `run` is None, while the run goes on.

    A new run that ends before its first checkpoint leaves no folder behind.

    Raises:
        InputError: the folder cannot be written.
    """
    first = jax.process_index() == 0
    new_folder = not workdir.exists()
    session = describe_run() | {"seed": config.seed}
    _agree(True)  # all have read the folder
    try:
        failure = None
        if first:
            try:
                if run is None:
                    claim_workdir(workdir, config, data, extractor)
                sessions = workdir / SESSIONS_FILE
                before = read_json(sessions) if sessions.exists() else []
                write_json(sessions, [*before, session])
                _remove(workdir.glob(".*.tmp*"))  # of runs that were killed
            except (InputError, OSError) as error:
                failure = error
        claimed_well = _agree(failure is None)
        if failure:
            raise failure
        if not claimed_well:
            raise InputError(f"{workdir}: the first process cannot write there; see its message")
        if not (workdir / RUN_FILE).exists():
            raise InputError(
                f"{workdir}: is not on a disk that all processes share; give one that is"
            )
        yield
    finally:
        if first and run is None and workdir.exists() and not step_folders(workdir):
            _empty(workdir)
            if new_folder:
                workdir.rmdir()


def _agree(well: bool) -> bool:
    """Waits for all processes, and tells them what the first one says."""
    if jax.process_count() == 1:
        return well
    return bool(multihost_utils.broadcast_one_to_all(np.int32(well)))


def _remove(places: Iterable[Path]) -> None:
    for place in list(places):
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()


def _empty(folder: Path) -> None:
    """Removes what is in a folder, though a save that was cut off may still write for a moment."""
    for left in reversed(range(20)):
        try:
            return _remove(folder.iterdir())
        except OSError:
            if not left:
                raise
            time.sleep(0.5)


def read_history(workdir: Path, steps: int, epoch_steps: int) -> list[dict[str, Any]]:
    """The rows of evaluations up to the training step that a run goes on from.

    Later ones are of a run that was cut off before its next checkpoint; they come again.
    """
    file = workdir / HISTORY_FILE
    rows = read_json(file) if file.exists() else []
    return [row for row in rows if row["epoch"] * epoch_steps <= steps]


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
        write_json(workdir / RUN_FILE, run)
    except OSError as error:
        raise InputError(f"{workdir}: cannot be written ({error.strerror})") from None


def check_data(workdir: Path, run: dict[str, Any], data: DataSet) -> None:
    """Raises `InputError` if a run would go on with other clips than it began with."""
    before, now = run["data"], describe_data(data)
    if "source" not in before:  # in a run that began before it was noted
        del now["source"]
    if before != now:
        raise InputError(
            f"{workdir}: its run began with other recordings ({_first_difference(before, now)} "
            f"differs); choose another --config.workdir, or bring the recordings back"
        )


def describe_data(data: DataSet) -> dict[str, Any]:
    """The classes, a prepared set's source, the number and a digest of the clips on each side."""
    description: dict[str, Any] = {"labels": data.labels, "source": data.digest}
    sides = {"train": data.train, "evaluation": data.evaluation}
    if data.test is not None:
        sides["test"] = data.test
    for side, clips in sides.items():
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
    # Of these no result depends, on `remat` but for rounding.
    for name in ("workdir", "save_every", "keep", "skip_nonfinite", "remat"):
        del fields[name]
    del fields["data"]["workers"]
    return json.loads(json.dumps(fields))


def _filled(fields: Any, defaults: Any) -> Any:
    """Nested dicts of fields, with those of the defaults that they lack."""
    if not isinstance(fields, dict) or not isinstance(defaults, dict):
        return fields
    return defaults | {name: _filled(value, defaults.get(name)) for name, value in fields.items()}


def _first_difference(before: Any, now: Any) -> str:
    if not isinstance(before, dict) or not isinstance(now, dict):
        return "configuration"
    for name in now:
        if before.get(name) != now[name]:
            if isinstance(now[name], dict):
                return f"{name}.{_first_difference(before.get(name), now[name])}"
            return f"{name} ({before.get(name)}, not {now[name]})"
    return "configuration"
