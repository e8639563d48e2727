"""The data set that a configuration names."""

from pathlib import Path

from ast_jax.config import TrainConfig
from ast_jax.data.clips import DataSet, read_clips
from ast_jax.data.prepared import open_prepared, read_prepared
from ast_jax.data.sources.esc50 import FOLDS, list_esc50
from ast_jax.data.sources.folder import list_folder
from ast_jax.data.sources.manifest import Example
from ast_jax.data.synthetic import SAMPLING_RATE, make_synthetic
from ast_jax.errors import InputError


def load_data(config: TrainConfig) -> DataSet:
    """Reads or makes the clips of `config.data`.

    Raises:
        InputError: the recordings cannot be used; the message names the file or field.
    """
    data, rate = config.data, config.frontend.sampling_rate
    if not data.fold:
        raise InputError("data.fold is 0, of which train.py makes five runs; set it to 1 to 5")
    if data.kind == "synthetic":
        if rate != SAMPLING_RATE:
            raise InputError(f"frontend.sampling_rate is {rate}; synthetic clips are at 16000 Hz")
        return make_synthetic(data.train_clips, data.evaluation_clips, config.seed)
    if data.kind == "prepared":
        prepared = open_prepared(data.dir, data.name)
        if data.digest and data.digest != prepared.digest:
            raise InputError(
                f"{prepared.folder}: was made from a source of digest {prepared.digest} and "
                f"data.digest is {data.digest}; give the set that it is of, or leave it out"
            )
        return read_prepared(prepared, rate, data.train, data.evaluation, data.fold, data.test)
    if data.kind == "esc50":
        return read_esc50(data.dir, data.fold, rate)
    return read_folder(data.dir, data.holdout, rate)


def read_esc50(folder: str | Path, fold: int, sampling_rate: int) -> DataSet:
    """Holds `fold`, 1 to 5, out of what `list_esc50` finds and trains on the other four.

    Raises:
        InputError: as `list_esc50`, or a recording is missing or cannot be used.
    """
    if fold not in FOLDS:
        raise InputError(f"data.fold is {fold}; ESC-50 has folds 1 to 5")
    labels, splits, missing = list_esc50(Path(folder))
    if missing:
        raise InputError(f"{missing[0]}; restore it or leave the line out")
    held_out = splits.pop(f"fold{fold}", [])
    train = [entry for entries in splits.values() for entry in entries]
    if not held_out or not train:
        raise InputError(f"{folder}: fold {fold} or the folds beside it have no recordings")
    return _read(labels, train, held_out, sampling_rate, f"fold {fold}")


def read_folder(folder: str | Path, holdout: float, sampling_rate: int) -> DataSet:
    """Reads what `list_folder` finds; of its splits there must be `train` and one other.

    Raises:
        InputError: as `list_folder`, or a recording cannot be used.
    """
    labels, splits, _ = list_folder(Path(folder), holdout=holdout)
    if len(splits) != 2:
        raise InputError(
            f"{folder}: has the splits {', '.join(splits)}; leave train and the one to evaluate on"
        )
    train, held_out = splits.values()
    return _read(labels, train, held_out, sampling_rate, "held-out recordings")


def _read(
    labels: list[str], train: list[Example], held_out: list[Example], sampling_rate: int, what: str
) -> DataSet:
    return DataSet(
        labels,
        read_clips(train, len(labels), sampling_rate, "training recordings"),
        read_clips(held_out, len(labels), sampling_rate, what),
    )
