"""Loads the recordings that checkpoints are evaluated on."""

import json
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from ast_jax.config import FolderData
from ast_jax.config_files import config_of_run
from ast_jax.data.clips import Clips, read_clips
from ast_jax.data.prepared import (
    PreparedSet,
    default_splits,
    has_prepared,
    open_prepared,
    split_names,
)
from ast_jax.data.sources.folder import has_splits, list_folder
from ast_jax.data.sources.folds import FOLDS, find_folds
from ast_jax.errors import InputError, quoted
from ast_jax.storage import fetch, read_run_file


class EvaluationSet(NamedTuple):
    """Clips to evaluate on.

    Attributes:
        folder: of the recordings.
        split: names of the splits, joined by '+'.
        labels: class names.
        sampling_rate: of the clips, in Hz.
        clips: the recordings.
        notes: sentences about the source to read, such as files passed over.
    """

    folder: str
    split: str
    labels: list[str]
    sampling_rate: int
    clips: Clips
    notes: Sequence[str] = ()


def read_evaluation_set(
    folder: str | Path,
    sampling_rate: int,
    *,
    split: str = "",
    name: str = "",
    holdout: FolderData | None = None,
) -> EvaluationSet:
    """Loads a split of a prepared set, or sound files by class or in the layout of ESC-50.

    Args:
        folder: of a prepared set, or the `--output` of `ast-jax prepare`, or a folder that
            `list_folder` or `find_folds` takes; or the URL of one, which is downloaded.
        sampling_rate: rate that sound files are resampled to, in Hz; prepared sets have their own.
        split: such as 'eval' or 'validation+test'. '' takes the split that the benchmark holds
            out; of sound files all, or the one folder that is not `train`.
        name: of the prepared set, where the folder holds several.
        holdout: how the splits `train` and `test` of a folder without them are chosen, see
            `read_holdout`; None for the default. Where nothing is chosen, `recursive` and
            `scale_loud` alone are used.

    Raises:
        InputError: the folder cannot be used, or the split does not exist or is ambiguous.
    """
    folder = fetch(folder)
    if name or has_prepared(folder):
        prepared = open_prepared(folder, name)
        split = split or _held_out(prepared)
        distinct_splits(split, prepared.splits, prepared.folder)
        found = EvaluationSet(
            str(prepared.folder),
            split,
            prepared.labels,
            prepared.sampling_rate,
            prepared.clips(split),
        )
    else:
        found = _read_folder(folder, sampling_rate, split, holdout)
    if not len(found.clips.waveforms):
        raise InputError(f"{found.folder}: split '{split}' has no clips; choose another")
    return found


def _read_folder(
    folder: Path, sampling_rate: int, split: str, holdout: FolderData | None
) -> EvaluationSet:
    """Loads sound files by class or in the layout of ESC-50; see `read_evaluation_set`."""
    if folds := find_folds(folder):
        labels, splits, _, notes = folds
        notes = [*notes, *folds.missing_notes]
        split = split or _only([], splits, folder)
        names = distinct_splits(split, splits, folder)
    else:
        if holdout and (not split or has_splits(folder)):
            # `group` is for the names of the run's files; these may have others.
            holdout = FolderData(recursive=holdout.recursive, scale_loud=holdout.scale_loud)
        labels, splits, _, notes = list_folder(folder, data=holdout)
        first = splits["train"][0]
        if not split and Path(first.path) == folder.absolute() / first.id:
            names, split = list(splits), "all"
        else:
            split = split or _only([other for other in splits if other != "train"], splits, folder)
            names = distinct_splits(split, splits, folder)
    entries = [entry for chosen in names for entry in splits[chosen]]
    scale_loud = holdout is not None and holdout.scale_loud
    clips, found_notes = read_clips(
        entries, len(labels), sampling_rate, "recordings", scale_loud=scale_loud
    )
    clips = clips._replace(names=[entry.id for entry in entries])
    return EvaluationSet(str(folder), split, labels, sampling_rate, clips, [*notes, *found_notes])


def add_missing_classes(data: EvaluationSet, labels: Sequence[str]) -> EvaluationSet:
    """Returns the set with the classes of `labels` that it lacks, which none of its clips has.

    A recording that the model takes for one of them is then counted as an error.
    """
    known = set(data.labels)
    missing = [label for label in labels if label not in known]
    if not missing:
        return data
    clips = data.clips
    total = len(data.labels) + len(missing)
    if isinstance(clips.targets, np.ndarray):
        targets: Any = np.pad(clips.targets, ((0, 0), (0, len(missing))))
    else:
        parts = clips.targets.data, clips.targets.indices, clips.targets.indptr
        targets = csr_array(parts, shape=(len(clips.names), total))
    note = (
        f"{data.folder}: has no clips of {len(missing)} of the {total} classes, such as "
        f"{quoted(missing[0])}; they take no part in mAP and mAUC"
    )
    return data._replace(
        labels=[*data.labels, *missing],
        clips=clips._replace(targets=targets),
        notes=[*data.notes, note],
    )


def check_disjoint(data: EvaluationSet, split: str) -> None:
    """Raises InputError if the set has clips of a split of its folder, or may have some."""
    if data.split == "all":
        raise InputError(
            f"{data.folder}: all files are evaluated, those of split '{split}' too; say with "
            f"--split which of them to evaluate"
        )
    here, there = ({name.strip() for name in text.split("+")} for text in (data.split, split))
    for name in here & there:
        raise InputError(
            f"{data.folder}: split '{name}' is evaluated; name another split to choose thresholds "
            f"on, or none to cross-fit them"
        )


def read_holdout(checkpoints: Iterable[str | Path]) -> FolderData | None:
    """Returns how the first run that was trained on a folder held files out; None for no such run.

    Raises:
        InputError: the `run.json` of a checkpoint is damaged.
    """
    for checkpoint in checkpoints:
        content = read_run_file(checkpoint, "run.json")
        if content is None:
            continue
        try:
            data = config_of_run(json.loads(content), str(checkpoint)).data
            if isinstance(data, FolderData):
                data.validate()
                return data
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{checkpoint}: its run.json is damaged ({error}); repair or remove it"
            ) from None
    return None


def _held_out(prepared: PreparedSet) -> str:
    """Returns the split that the set's benchmark holds out."""
    # Each fold is held out in turn: a wrong guess would be a fold that was trained on.
    if prepared.name not in FOLDS:
        with suppress(InputError):
            return default_splits(prepared, fold=1)[1]
    return _only([], prepared.splits, prepared.folder)


def _only(held_out: Sequence[str], splits: Iterable[str], where: object) -> str:
    if len(held_out) == 1:
        return held_out[0]
    raise InputError(
        f"{where}: has the splits {', '.join(splits)}; say with --split which the checkpoints "
        f"were not trained on"
    )


def distinct_splits(text: str, available: Collection[str], where: object) -> list[str]:
    """Returns the names in 'a+b', after checking that each exists and is named once."""
    names = split_names(text, available, where)
    if len(set(names)) < len(names):
        raise InputError(f"{where}: split '{text}' names one twice; name each once")
    return names
