"""Loads the data set of a configuration."""

from pathlib import Path

from ast_jax.columns import Columns
from ast_jax.config import ESC50Data, FolderData, PreparedData, StrongData, TrainConfig
from ast_jax.data.clips import DataSet, read_clips
from ast_jax.data.prepared import open_prepared, read_prepared
from ast_jax.data.sources.folder import list_folder
from ast_jax.data.sources.folds import ESC50, list_esc50
from ast_jax.data.sources.manifest import Example
from ast_jax.data.strong_recordings import read_strong
from ast_jax.data.synthetic import SAMPLING_RATE, make_synthetic
from ast_jax.errors import InputError
from ast_jax.storage import fetch


def load_data(config: TrainConfig) -> DataSet:
    """Loads or synthesizes the clips of `config.data`; those at a URL are downloaded first.

    Raises:
        InputError: the recordings cannot be used; the message names the file or field.
    """
    data, rate = config.data, config.frontend.sampling_rate
    if config.runs_all_folds:
        raise InputError("data.fold is 0, which trains a run per fold; set it to one of them")
    if isinstance(data, ESC50Data):
        return read_esc50(fetch_folder(data), data.fold, rate, scale_loud=data.scale_loud)
    if isinstance(data, FolderData):
        return read_folder(fetch_folder(data), data, rate)
    if isinstance(data, PreparedData):
        folder = fetch_folder(data)
        prepared = open_prepared(folder, data.name)
        if data.digest and data.digest != prepared.digest:
            raise InputError(
                f"{prepared.folder}: has the source digest {prepared.digest} and data.digest is "
                f"{data.digest}; give the set with that digest, or clear data.digest"
            )
        return read_prepared(prepared, rate, data.train, data.evaluation, data.fold, data.test)
    if isinstance(data, StrongData):
        return read_strong(data, Columns.of(config.model, rate))
    if rate != SAMPLING_RATE:
        raise InputError(f"frontend.sampling_rate is {rate}; set it to 16000 for synthetic clips")
    return make_synthetic(data.train_clips, data.evaluation_clips, config.seed)


def fetch_folder(data: ESC50Data | FolderData | PreparedData) -> Path:
    """Returns the folder of the recordings; that at a URL is downloaded.

    Raises:
        InputError: `data.dir` is not set, or as `fetch`.
    """
    if not data.dir:
        raise InputError("data.dir is not set; say where the recordings are")
    return fetch(data.dir)


def read_esc50(
    folder: str | Path, fold: int, sampling_rate: int, *, scale_loud: bool = False
) -> DataSet:
    """Loads ESC-50 with fold `fold`, 1 to 5, held out and the other four to train on.

    Raises:
        InputError: as for `list_esc50`, or a recording is missing or cannot be used.
    """
    if not 1 <= fold <= ESC50.folds:
        raise InputError(f"data.fold is {fold}; ESC-50 has folds 1 to 5")
    labels, splits, missing, _ = list_esc50(Path(folder))
    if missing:
        raise InputError(f"{missing[0]}; restore it or remove the line")
    held_out = splits.pop(f"fold{fold}", [])
    train = [example for examples in splits.values() for example in examples]
    if not held_out or not train:
        raise InputError(
            f"{folder}: fold {fold} or all other folds are empty; add their recordings"
        )
    return _read(labels, train, held_out, sampling_rate, f"fold {fold}", scale_loud)


def read_folder(folder: str | Path, data: FolderData, sampling_rate: int) -> DataSet:
    """Loads a folder of recordings, as `list_folder` lists it: `train` and one other split.

    Raises:
        InputError: as for `list_folder`, or a recording cannot be used.
    """
    labels, splits, _, notes = list_folder(Path(folder), data=data)
    if len(splits) == 1:
        what = "recordings (data.group)" if data.group else "sound files"
        raise InputError(
            f"{folder}: no class has two {what}; add some, as one of a class is held out"
        )
    if len(splits) > 2:
        raise InputError(
            f"{folder}: has the splits {', '.join(splits)}; keep train and the one to evaluate on"
        )
    train, held_out = splits.values()
    read = _read(labels, train, held_out, sampling_rate, "held-out recordings", data.scale_loud)
    return read._replace(notes=[*notes, *read.notes])


def _read(
    labels: list[str],
    train: list[Example],
    held_out: list[Example],
    sampling_rate: int,
    what: str,
    scale_loud: bool,
) -> DataSet:
    sides, notes = [], []
    for examples, name in ((train, "training recordings"), (held_out, what)):
        clips, found = read_clips(examples, len(labels), sampling_rate, name, scale_loud=scale_loud)
        sides.append(clips)
        notes += [f"{name}: {note}" for note in found]
    return DataSet(labels, sides[0], sides[1], notes=notes)
