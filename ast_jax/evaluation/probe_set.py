"""Loads the recordings that embeddings are probed on, in groups to train on and to hold out."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ast_jax.data.clips import Clips, read_clips
from ast_jax.data.prepared import default_splits, has_prepared, open_prepared
from ast_jax.data.sources.folder import list_folder
from ast_jax.data.sources.folds import find_folds
from ast_jax.errors import InputError
from ast_jax.evaluation.evaluation_set import distinct_splits
from ast_jax.storage import fetch


class ProbeSet(NamedTuple):
    """Clips to probe.

    Attributes:
        folder: of the recordings.
        labels: class names.
        sampling_rate: of the clips, in Hz.
        clips: the recordings.
        groups: the fold or split of each clip.
        train_groups: the groups to train on, by the group to hold out.
        notes: sentences about the source to read, such as files passed over.
    """

    folder: str
    labels: list[str]
    sampling_rate: int
    clips: Clips
    groups: list[str]
    train_groups: dict[str, list[str]]
    notes: Sequence[str] = ()


def read_probe_set(
    folder: str | Path, sampling_rate: int, *, train: str = "", split: str = "", name: str = ""
) -> ProbeSet:
    """Loads a prepared set, a folder in the layout of ESC-50 or UrbanSound8K, or class folders.

    Each fold is held out in turn, and the others are trained on. Of other splits, those that the
    benchmark trains on and holds out are used; of class folders without splits, the files that
    `list_folder` holds out. Sound files are read into memory, 640 kB for 10 s at 16 kHz.

    Args:
        folder: or the URL of one, which is downloaded.
        sampling_rate: rate that sound files are resampled to, in Hz; prepared sets have their own.
        train: the folds or splits to train on, such as 'train+validation'; '' for the default.
        split: those to hold out, one after another; '' for the default.
        name: of the prepared set, where the folder holds several.

    Raises:
        InputError: the folder cannot be used, or a fold or split does not exist or is ambiguous.
    """
    folder = fetch(folder)
    if name or has_prepared(folder):
        prepared = open_prepared(folder, name)
        default = None
        with suppress(InputError):
            default = default_splits(prepared, fold=1)
        sizes = {each: sum(n for _, n in files) for each, files in prepared.splits.items()}
        chosen = _choose(list(sizes), default, train, split, prepared.folder)
        names = [each for each in sizes if each in _used(chosen)]
        groups = np.repeat(names, [sizes[each] for each in names]).tolist()
        clips = prepared.clips("+".join(names))
        return ProbeSet(str(folder), prepared.labels, prepared.sampling_rate, clips, groups, chosen)
    manifest = find_folds(folder) or list_folder(folder)
    labels, splits, _, notes = manifest
    others = [each for each in splits if each != "train"]
    default = ("train", others[0]) if "train" in splits and len(others) == 1 else None
    chosen = _choose(list(splits), default, train, split, folder)
    clips_by_group = {each: splits[each] for each in splits if each in _used(chosen)}
    examples = [example for each in clips_by_group.values() for example in each]
    clips, found_notes = read_clips(examples, len(labels), sampling_rate, "recordings")
    notes = [*notes, *found_notes, *manifest.missing_notes]
    groups = [each for each, listed in clips_by_group.items() for _ in listed]
    return ProbeSet(str(folder), labels, sampling_rate, clips, groups, chosen, notes)


def _choose(
    names: list[str],
    default: tuple[str, str] | None,
    train: str,
    split: str,
    where: object,
) -> dict[str, list[str]]:
    """Returns the groups to train on by the group to hold out; `default`: such splits, joined."""
    are_folds = all(re.fullmatch(r"fold\d+", name) for name in names)
    if not are_folds and default is None and not (train and split):
        raise InputError(
            f"{where}: has the splits {', '.join(names)}; give those to train on with --train and "
            f"the one to hold out with --split"
        )
    default = ("+".join(names), "+".join(names)) if are_folds else default or ("", "")
    training = distinct_splits(train or default[0], names, where)
    held_out = distinct_splits(split or default[1], names, where)
    if both := [each for each in held_out if each in training and not are_folds]:
        raise InputError(
            f"{where}: split '{both[0]}' is trained on and held out; leave one out of --train and "
            f"--split"
        )
    return {group: [each for each in training if each != group] for group in held_out}


def _used(chosen: dict[str, list[str]]) -> set[str]:
    return {each for group, training in chosen.items() for each in (group, *training)}
