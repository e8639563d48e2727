"""The folder of a run.

    WORKDIR/.lock           held by the process that writes to the folder
    WORKDIR/run.json        the configuration, the clips' digests, the feature extractor
    WORKDIR/trained_clips.npz  hashes of the training clips, for evaluations of the model
    WORKDIR/sessions.json   an entry per start: when, where and with which versions
    WORKDIR/history.json    a row per evaluation; also history.csv and loss.png
    WORKDIR/predictions/    of each evaluation, for `cumulative`
    WORKDIR/tensorboard/    scalars
    WORKDIR/profile/        traces of `profile_steps`
    WORKDIR/checkpoints/    to resume from
    WORKDIR/model/          the final parameters, once the run is finished
    WORKDIR/results.json    their metrics and epoch; also per_class.csv, predictions.csv,
                            worst.csv and pictures; test/ has the same

The first process of a pod writes and reads it; the others need not see its disk.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import wait_for_writers
from ast_jax.checkpoint.load import step_folders
from ast_jax.config import FolderData, TrainConfig
from ast_jax.config_files import config_of_run
from ast_jax.data.clips import DataSet
from ast_jax.data.overlap import TRAINED_FILE, ClipHashes, write_trained_clips
from ast_jax.errors import InputError, print_note
from ast_jax.io import LOCK_FILE, check_not_held, hold_folder, read_json, write_json
from ast_jax.multihost import call_on_first
from ast_jax.runs.logging import describe_run
from ast_jax.runs.mirror import (
    RUN_FILE,
    SESSIONS_FILE,
    pull,
    push,
    push_last,
    run_folder,
    uploading,
)
from ast_jax.urls import is_remote

# No result depends on these, on `remat` only by rounding; a resumed run may change them.
MAY_CHANGE = (
    "workdir",
    "checkpoint_every_steps",
    "max_to_keep",
    "skip_nonfinite",
    "remat",
    "profile_steps",
)

# The fields without which a run cannot resume exactly, in each part of `run.json`.
REQUIRED = {
    "config": set[str](),
    "data": {"labels", "train", "evaluation"},
    "feature_extractor": {"sampling_rate", "num_mel_bins", "max_length", "mean", "std"},
}

ANOTHER_RUN = "another run"

NO_NAMES: dict[str, str] = {}


def open_workdir(
    config: TrainConfig, overrides: Mapping[str, str] = NO_NAMES
) -> tuple[Path, dict[str, Any] | None]:
    """Returns the run's folder and its saved `run.json`, None for a new run; writes nothing.

    Collective: each process of a pod must call it; the first reads the folder.

    Args:
        config: of the run.
        overrides: the names of the parts that replace the configuration's.

    Raises:
        InputError: the folder holds something else, or a run of another configuration.
    """
    workdir = run_folder(config.workdir)
    return workdir, call_on_first(lambda: _read_run(workdir, config, overrides))


def check_writable(folder: Path) -> None:
    """Raises `InputError` if a folder cannot be created or written, before hours of work."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        what = "is not writable" if existing.is_dir() else "is a file"
        raise InputError(f"{folder}: cannot be written, as {existing} {what}; choose another")


def _read_run(
    workdir: Path, config: TrainConfig, overrides: Mapping[str, str]
) -> dict[str, Any] | None:
    check_not_held(workdir, ANOTHER_RUN)
    file = workdir / RUN_FILE
    where: str | Path = workdir
    if is_remote(config.workdir):
        where = config.workdir
        pull(where, workdir)
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{where}: is a file; choose another workdir")
    if not file.exists():
        # A run that was killed at its start leaves these.
        leftovers = (LOCK_FILE, f".{RUN_FILE}.")
        if workdir.exists() and any(not x.name.startswith(leftovers) for x in workdir.iterdir()):
            raise InputError(f"{where}: exists and is not a run of ast_jax; choose another folder")
        check_writable(workdir)
        return None
    run = read_json(file)
    if not isinstance(run, dict) or not all(
        isinstance(run.get(part), dict) and fields <= run[part].keys()
        for part, fields in REQUIRED.items()
    ):
        raise InputError(
            f"{where}: {RUN_FILE} is damaged; restore it from a copy, remove {where}, or choose "
            f"another workdir"
        )
    run["config"] = _fields(config_of_run(run, str(file)))
    fields = _fields(keep_holdout(config, run))
    before = run["config"] | ({"num_epochs": config.num_epochs} if is_extended(run, config) else {})
    if before != fields:
        raise InputError(
            f"{where}: holds a run with another {first_difference(before, fields)}; choose "
            f"another workdir, or remove this one"
        )
    if run.get("overrides", {}) != overrides:
        raise InputError(
            f"{where}: holds a run with another "
            f"{first_difference(run.get('overrides', {}), dict(overrides))} given to fit; give the "
            f"same, or choose another workdir"
        )
    return run


def is_extended(run: dict[str, Any] | None, config: TrainConfig) -> bool:
    """Returns whether the configuration has more epochs than the saved run, which trains on."""
    fields = run["config"] if run else None
    before = fields.get("num_epochs") if isinstance(fields, dict) else None
    return isinstance(before, int) and before < config.num_epochs


def keep_holdout(config: TrainConfig, saved_run: dict[str, Any] | None) -> TrainConfig:
    """Returns the configuration, for a saved run that holds files out as earlier versions did so.

    Its command did not name the fields, and their defaults are others now.
    """
    if saved_run is None or not isinstance(config.data, FolderData):
        return config
    earlier = {"kind": FolderData.kind, "stratify": False, "recursive": False}
    if earlier.items() <= saved_run["config"]["data"].items():
        data = replace(config.data, stratify=False, recursive=False)
        return replace(config, data=data)
    return config


@contextmanager
def acquire_workdir(
    workdir: Path,
    saved_run: dict[str, Any] | None,
    config: TrainConfig,
    data: DataSet,
    train_hashes: ClipHashes,
    extractor: ASTFeatureExtractor,
    overrides: Mapping[str, str],
) -> Iterator[None]:
    """Holds the run's folder during the run, see `hold_folder`; creates it if `saved_run` is None.

    A new run that ends before its first checkpoint removes its folder. If a saved run gets more
    epochs, they are written to `run.json` and the final parameters of the shorter run are removed.
    A remote run is uploaded meanwhile. Collective.

    Raises:
        InputError: the folder cannot be written, or another process holds it.
    """
    first = jax.process_index() == 0
    remote = is_remote(config.workdir)
    new_folder = first and not workdir.exists()
    session = describe_run() | {"seed": config.seed, "num_epochs": config.num_epochs}
    owner: bytes | None = None  # the remote SESSIONS_FILE of this run
    held = False
    stack = ExitStack()

    def start_session() -> None:
        nonlocal held
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold_folder(workdir, ANOTHER_RUN))
            if saved_run is None and (workdir / RUN_FILE).exists():
                raise InputError(
                    f"{workdir}: another run has started there meanwhile; choose another workdir"
                )
            held = True
            if saved_run is None:
                write_run(workdir, config, data, extractor, overrides)
            elif is_extended(saved_run, config):
                _remove([workdir / "model"] if (workdir / "model").exists() else [])
                write_json(workdir / RUN_FILE, saved_run | {"config": _fields(config)})
            if not (workdir / TRAINED_FILE).exists():  # also of a run of an earlier version
                write_trained_clips(workdir / TRAINED_FILE, train_hashes)
            _add_session(workdir / SESSIONS_FILE, session)
            _remove(workdir.glob(".*.tmp*"))  # of runs that were killed
        except OSError as error:
            raise InputError(f"{workdir}: cannot be written ({error.strerror})") from None
        if remote:
            push(config.workdir, workdir)

    with stack:
        try:
            call_on_first(start_session)
            if first and remote:
                owner = (workdir / SESSIONS_FILE).read_bytes()
            with uploading(config.workdir, workdir, owner) if owner else nullcontext():
                yield
        except BaseException:
            if held and saved_run is None and not step_folders(workdir):
                _empty(workdir)
            if new_folder:
                with suppress(OSError):  # it has the run, or is another process's
                    workdir.rmdir()
            if held and remote:
                try:
                    push_last(config.workdir, workdir, owner)
                except InputError as error:
                    if owner:  # otherwise it is the error that is raised already
                        print_note(str(error))
            raise
        if remote:  # collective, as JAX ends processes that wait for the others at their exit
            call_on_first(lambda: push_last(config.workdir, workdir, owner))


def _add_session(file: Path, session: dict[str, Any]) -> None:
    before = read_json(file) if file.exists() else []
    if not isinstance(before, list) or not all(map(_is_session, before)):
        raise InputError(f"{file}: is not a list of sessions; delete it to go on")
    write_json(file, [*before, session])


def _is_session(value: Any) -> bool:
    """Returns whether a value is an object of what JSON can hold: Python also reads NaN."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return isinstance(value, dict)


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _empty(folder: Path) -> None:
    """Empties a folder, to which threads of an interrupted save may still write."""
    wait_for_writers(folder / "checkpoints")
    for left in reversed(range(20)):
        try:
            return _remove(folder.iterdir())
        except OSError:
            if not left:
                raise
            time.sleep(0.5)


def write_run(
    workdir: Path,
    config: TrainConfig,
    data: DataSet,
    extractor: ASTFeatureExtractor,
    overrides: Mapping[str, str],
) -> None:
    """Writes `run.json` of a new run.

    Raises:
        InputError: the file cannot be written.
    """
    run = {
        "config": _fields(config),
        "data": describe_data(data),
        "feature_extractor": extractor.to_dict(),
        "overrides": dict(overrides),
    }
    write_json(workdir / RUN_FILE, run)


def check_data(workdir: Path, run: dict[str, Any], data: DataSet) -> None:
    """Raises `InputError` if a run would resume with other recordings than it started with."""
    before, now = run["data"], describe_data(data)
    if "source" not in before:  # runs of earlier versions
        del now["source"]
    if before != now:
        raise InputError(
            f"{workdir}: its run started with other recordings ({first_difference(before, now)} "
            f"differs); choose another workdir, or bring the recordings back"
        )


def describe_data(data: DataSet) -> dict[str, Any]:
    """Returns the classes, the digest of a prepared source, and count and digest of each split."""
    description: dict[str, Any] = {"labels": data.labels, "source": data.digest}
    sides = {"train": data.train, "evaluation": data.evaluation}
    if data.test is not None:
        sides["test"] = data.test
    for side, clips in sides.items():
        targets = clips.targets
        digest = hashlib.sha256()
        events = [] if clips.strong is None else clips.strong.events
        for array in (
            *([targets] if isinstance(targets, np.ndarray) else [targets.indices, targets.indptr]),
            *events,
        ):
            digest.update(array.tobytes())
        for name, length in zip(clips.names, clips.lengths(), strict=True):
            digest.update(f"{Path(name).name} {length} ".encode())
        description[side] = {"clips": len(clips.names), "digest": digest.hexdigest()}
    return description


def _fields(config: TrainConfig) -> dict[str, Any]:
    """Returns the fields that identify a run, as JSON returns them."""
    fields = config.to_dict()
    for name in MAY_CHANGE:
        del fields[name]
    del fields["data"]["workers"]
    return json.loads(json.dumps(fields))


def first_difference(before: Any, now: Any) -> str:
    """Returns the name of the first field that differs between two nested dicts, and its values."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return "configuration"
    for name in {**now, **before}:
        if before.get(name) != now.get(name):
            if isinstance(now.get(name), dict) and isinstance(before.get(name), dict):
                return f"{name}.{first_difference(before[name], now[name])}"
            return f"{name} ({before.get(name)}, not {now.get(name)})"
    return "configuration"
