"""The protocol of ESC-50 and UrbanSound8K: a run per fold, and the mean accuracy by epoch.

WORKDIR/fold1 … foldN   a run each, see `ast_jax.runs.workdir`
WORKDIR/folds.json      the accuracies of all folds; also folds.csv and folds.png
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from ast_jax.config import ESC50Data, PreparedData, TrainConfig
from ast_jax.data.prepared import open_prepared
from ast_jax.data.sources.folds import ESC50, FOLDS, list_esc50
from ast_jax.data.training_data import fetch_folder, load_data
from ast_jax.errors import InputError
from ast_jax.io import LOCK_FILE, read_json, write_csv, write_json
from ast_jax.multihost import call_on_first
from ast_jax.runs.history import HISTORY_FILE
from ast_jax.runs.mirror import push_last, run_folder
from ast_jax.runs.plots import draw_folds
from ast_jax.runs.progress import run_console
from ast_jax.runs.workdir import check_data, is_extended, open_workdir
from ast_jax.storage import list_files, upload
from ast_jax.training.loop import fit
from ast_jax.urls import is_remote, normalize

RESULT = "folds"  # the files' name, before its ending


class CrossValidation(NamedTuple):
    """Held-out accuracy of every fold after every evaluation.

    Attributes:
        epochs: (evaluations,).
        accuracy: float64 (folds, evaluations).
    """

    epochs: list[int]
    accuracy: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean over the folds, (evaluations,)."""
        return self.accuracy.mean(axis=0)

    @property
    def std(self) -> np.ndarray:
        """Sample standard deviation over the folds, (evaluations,)."""
        return self.accuracy.std(axis=0, ddof=1)

    @property
    def best(self) -> int:
        """Index of the first evaluation with the best mean."""
        return int(self.mean.argmax())


def cross_validate(config: TrainConfig) -> CrossValidation | None:
    """Trains once per fold of ESC-50 or UrbanSound8K, or resumes.

    Returns:
        The accuracies; None on other processes than the first.

    Raises:
        InputError: as `fit`, or the data lacks a fold, which is checked before training.
        KeyboardInterrupt: SIGINT or SIGTERM was received; progress is saved.
    """
    config.validate()
    folds = range(1, 1 + check_folds(config))
    runs = [fold_config(config, fold) for fold in folds]
    check_workdir(config.workdir, runs)
    console = run_console()
    for fold, run in zip(folds, runs, strict=True):
        console.print(f"fold {fold} of {len(folds)}, in {run.workdir}")
        if is_finished(run):
            console.print("already finished")
        else:
            fit(run)
    if jax.process_index():
        return None
    found = gather([read_json(run_folder(run.workdir) / HISTORY_FILE) for run in runs])
    write(config.workdir, found)
    print_folds(console, found)
    console.print(f"{RESULT}.json, {RESULT}.csv and {RESULT}.png are in {config.workdir}")
    return found


def fold_config(config: TrainConfig, fold: int) -> TrainConfig:
    """Returns the configuration of the run that holds one fold out."""
    assert isinstance(config.data, ESC50Data | PreparedData)
    workdir = os.path.join(config.workdir, f"fold{fold}")
    return replace(config, workdir=workdir, data=replace(config.data, fold=fold))


def is_finished(run: TrainConfig) -> bool:
    """Returns whether a run has its final parameters, of as many epochs. Collective.

    Raises:
        InputError: the run is of other recordings, or the folder holds something else.
    """
    workdir, saved_run = open_workdir(run)
    if saved_run is None or is_extended(saved_run, run):
        return False
    if not call_on_first((workdir / "model").exists):
        return False
    if is_remote(run.workdir):  # its last upload may have failed
        call_on_first(lambda: push_last(run.workdir, workdir))
    check_data(workdir, saved_run, load_data(run))
    return True


def check_folds(config: TrainConfig) -> int:
    """Returns the number of folds.

    Raises:
        InputError: the data lacks a fold, or a field selects other clips.
    """
    data = config.data
    if isinstance(data, ESC50Data):
        folds = ESC50.folds
        splits = set(list_esc50(fetch_folder(data)).splits)
    elif isinstance(data, PreparedData):
        prepared = open_prepared(fetch_folder(data), data.name)
        splits = set(prepared.splits)
        if prepared.name not in FOLDS:
            raise InputError(
                f"data.fold is 0 and the prepared set is '{prepared.name}'; only "
                f"{' and '.join(FOLDS)} have folds, set data.fold to 1"
            )
        folds = FOLDS[prepared.name]
        for field in ("train", "evaluation", "test"):
            if getattr(data, field):
                raise InputError(
                    f"data.fold is 0 and data.{field} '{getattr(data, field)}'; the folds decide "
                    f"what is trained on and held out, leave data.{field} out"
                )
    else:
        raise InputError(f"data.kind is '{data.kind}', which has no folds; use `fit`")
    for fold in range(1, 1 + folds):
        if f"fold{fold}" not in splits:
            raise InputError(
                f"{data.dir}: has no clips of fold {fold}; restore them, or hold out another "
                f"fold with data.fold"
            )
    return folds


def check_workdir(workdir: str, runs: list[TrainConfig]) -> None:
    """Raises `InputError` if the folder holds anything but these runs. Collective."""
    call_on_first(lambda: _check_names(workdir, {Path(run.workdir).name for run in runs}))
    for run in runs:
        open_workdir(run)


def _check_names(workdir: str, fold_names: set[str]) -> None:
    if is_remote(workdir):
        names = {name.partition("/")[0] for name in list_files(normalize(workdir))}
    else:
        folder = Path(workdir)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{workdir}: is a file; choose another workdir")
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    for name in sorted(names):
        known = name in fold_names or name == LOCK_FILE
        if not known and not name.lstrip(".").startswith(f"{RESULT}."):
            raise InputError(
                f"{workdir}: holds '{name}', which is no fold's run; choose another workdir"
            )


def gather(histories: list[list[dict[str, Any]]]) -> CrossValidation:
    """Collects the accuracies from the histories of the runs, which have the same epochs."""
    return CrossValidation(
        [row["epoch"] for row in histories[0]],
        np.array([[row["accuracy"] for row in history] for history in histories]),
    )


def write(workdir: str, found: CrossValidation) -> None:
    """Writes `folds.json` and `folds.csv`, and draws `folds.png`."""
    folder = run_folder(workdir)
    names = [f"fold{i + 1}" for i in range(len(found.accuracy))]
    columns = {"epoch": found.epochs}
    columns |= {name: of.tolist() for name, of in zip(names, found.accuracy, strict=True)}
    columns |= {"mean": found.mean.tolist(), "std": found.std.tolist()}
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    write_json(
        folder / f"{RESULT}.json", {"best": rows[found.best], "last": rows[-1], "epochs": rows}
    )
    write_csv(folder / f"{RESULT}.csv", rows)
    draw_folds(found.epochs, found.accuracy, folder / f"{RESULT}.png")
    if is_remote(workdir):
        names = [f"{RESULT}.{ending}" for ending in ("json", "csv", "png")]
        upload(normalize(workdir), folder, names)


def print_folds(console: Console, found: CrossValidation) -> None:
    """Prints a table of the folds, with the mean at the best and at the last epoch."""
    best = found.epochs[found.best]
    table = Table(title="accuracy of the fold held out")
    for name in ("fold", f"epoch {best}", "its best", f"last, epoch {found.epochs[-1]}"):
        table.add_column(name, justify="right")
    columns = [found.accuracy[:, found.best], found.accuracy.max(axis=1), found.accuracy[:, -1]]
    for fold, values in enumerate(zip(*columns, strict=True), start=1):
        table.add_row(str(fold), *(f"{value:.1%}" for value in values))
    table.add_section()
    means = [f"{column.mean():.1%} ± {column.std(ddof=1):.1%}" for column in columns]
    table.add_row("mean ± std", *means)
    console.print(table)
    console.print(
        f"epoch {best} has the best mean of the folds, as the original chooses it: on the "
        f"clips held out themselves"
    )
