"""Lists recordings in a folder per class."""

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from ast_jax.config import FolderData
from ast_jax.data.sources.class_csv import refuse_classes
from ast_jax.data.sources.files import (
    check_no_pipe,
    describe_skipped,
    hidden,
    is_sound,
    visible,
    walk,
)
from ast_jax.data.sources.holdout import hold_out_by_hash, hold_out_stratified, name_hash
from ast_jax.data.sources.manifest import (
    SPLITS,
    Example,
    Manifest,
    case_notes,
    check_text,
    shared_group_notes,
)
from ast_jax.errors import InputError, quoted, shorten


def list_folder(
    source: Path, classes: Path | None = None, data: FolderData | None = None
) -> Manifest:
    """Lists `source/LABEL/**/*.wav` or `source/SPLIT/LABEL/**/*.wav`, labels in alphabetical order.

    The folders are splits if they are `train` and one or more others of `SPLITS`, in any case, and
    each has subfolders. Otherwise the splits are `train` and `test`, see `hold_out_stratified`, or
    `hold_out_by_hash` where `data.stratify` is False; `test` is missing if no class has two files
    or recordings.

    A clip's id is `LABEL/name`, or `LABEL/folder/name`. Hidden files are skipped, and those
    without a suffix of `files.SUFFIXES`, which `notes` counts.

    Args:
        source: the folder of a folder per class, or of a folder per split with one per class.
        classes: must be None, as the folders are the classes.
        data: has `holdout`, `stratify`, `recursive` and `group`; None for the defaults.

    Raises:
        InputError: a field of `data` cannot be used, there are no classes, a class has no files,
            or `data.group` does not match a file.
    """
    refuse_classes(classes, "a folder for each class")
    data = data or FolderData()
    source = Path(source).absolute()
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; give one with a folder for each class")
    data.validate()
    folders = _folders(source)
    if has_splits(source):
        return _list_splits(source, folders, data)
    labels = _labels(source, folders)
    files = {folder: _files(folder, data.recursive) for folder in folders}
    examples = []
    for i, folder in enumerate(folders):
        found = _examples(folder, i, files[folder])
        examples += sorted(found, key=lambda clip: name_hash(clip.id))
    targets = [example.labels for example in examples]
    if data.stratify or data.group:
        held = hold_out_stratified(targets, _recordings(examples, data.group), data.holdout)
    else:
        held = hold_out_by_hash(targets, [example.id for example in examples], data.holdout)
    splits = {
        "train": [example for i, example in enumerate(examples) if i not in held],
        "test": [example for i, example in enumerate(examples) if i in held],
    }
    if not held:
        del splits["test"]
    notes = case_notes(source, labels) + _notes(source, files, examples, data.recursive)
    return Manifest(labels, splits, [], notes)


def has_splits(source: Path) -> bool:
    """Returns whether a folder has a folder per split, see `list_folder`."""
    folders = _folders(source)
    names = {folder.name.lower() for folder in folders}
    return "train" in names and len(names) > 1 and names <= SPLITS and all(map(_folders, folders))


def _list_splits(source: Path, folders: list[Path], data: FolderData) -> Manifest:
    folders.sort(key=lambda folder: folder.name.lower() != "train")  # train first
    train = folders[0]
    labels = _labels(train, _folders(train))
    splits: dict[str, list[Example]] = {}
    notes = [*case_notes(source, labels), *_hidden_notes([source])]
    for folder in folders:
        split = folder.name.lower()
        if split in splits:
            raise InputError(f"{folder}: another folder is the split {split}, too; rename one")
        splits[split] = []
        files = {path: _files(path, data.recursive) for path in _folders(folder)}
        for class_folder in files:
            if class_folder.name not in labels:
                raise InputError(f"{class_folder}: is not a class in {train}; rename or remove it")
            label = labels.index(class_folder.name)
            splits[split] += _examples(class_folder, label, files[class_folder])
        notes += _notes(folder, files, splits[split], data.recursive)
    if data.group:
        groups = {name: _recordings(clips, data.group) for name, clips in splits.items()}
        notes += shared_group_notes(source, groups)
    return Manifest(labels, splits, [], notes)


def _folders(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.is_dir()]


def _labels(source: Path, folders: list[Path]) -> list[str]:
    if not folders:
        raise InputError(f"{source}: has no folders; give one with a folder for each class")
    for folder in folders:
        check_text(folder.name, "the name of the folder", str(source))
    return [folder.name for folder in folders]


def _examples(folder: Path, label: int, files: list[Path]) -> list[Example]:
    """Returns the recordings among the files of a class."""
    sounds = [file for file in files if is_sound(file.name)]
    for file in sounds:
        name = file.relative_to(folder).as_posix()
        check_text(name, "the name of the file", str(folder))
        check_no_pipe(file)
    if not sounds:
        reason = f" ({describe_skipped(file.name for file in files)})" if files else ""
        raise InputError(f"{folder}: has no sound files{reason}; add some or remove it")
    root = folder.parent
    return [Example(f.relative_to(root).as_posix(), str(f), (label,)) for f in sounds]


def _files(folder: Path, recursive: bool) -> list[Path]:
    return list(walk(folder)) if recursive else [f for f in visible(folder) if f.is_file()]


def _recordings(examples: list[Example], group: str) -> list[str]:
    """Returns the recording that each file is a piece of: the file itself without `group`."""
    if not group:
        return [example.id for example in examples]
    rule, names = re.compile(group), []
    for example in examples:
        name = example.id.partition("/")[2]
        match = rule.search(name)
        found = match and match[1 if rule.groups else 0]
        if not found:
            raise InputError(
                f"{example.path}: data.group {quoted(group)} finds no recording in "
                f"{quoted(name)}; correct the expression or rename the file"
            )
        names.append(found)
    return names


def _notes(
    source: Path, files: dict[Path, list[Path]], examples: list[Example], recursive: bool
) -> list[str]:
    """Returns sentences about files that are passed over, and about subfolders of classes."""
    beside = [path for path in visible(source) if path.is_file()]
    notes = []
    if sounds := [path.name for path in beside if is_sound(path.name)]:
        notes.append(
            f"{source}: passed over {len(sounds)} sound files that are in no class folder, such "
            f"as {quoted(sounds[0])}"
        )
    others = [path.name for path in [*chain(*files.values()), *beside] if not is_sound(path.name)]
    if others:
        notes.append(f"{source}: {describe_skipped(others)}")
    if recursive:
        inner = dict.fromkeys(
            clip.id.rpartition("/")[0] for clip in examples if clip.id.count("/") > 1
        )
        what = "the files of {} subfolders, such as {}, have the class of the folder above"
    else:
        inner = dict.fromkeys(
            str(path.relative_to(source)) for folder in files for path in _folders(folder)
        )
        what = "passed over {} subfolders, such as {}, as data.recursive is False"
    if inner:
        notes.append(f"{source}: {what.format(len(inner), quoted(next(iter(inner))))}")
    read = {path.parent for each in files.values() for path in each}
    return notes + _hidden_notes([source, *files, *sorted(read - files.keys())])


def _hidden_notes(folders: Sequence[Path]) -> list[str]:
    """Returns a sentence about hidden files and the like in folders."""
    names = [name for folder in folders for name in hidden(folder)]
    if not names:
        return []
    found = shorten([quoted(name) for name in dict.fromkeys(names)], 3)
    return [f"{folders[0]}: passed over {len(names)} hidden files or folders: {found}"]
