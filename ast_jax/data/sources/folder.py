"""Lists recordings in a folder per class."""

import os
import zlib
from pathlib import Path

from ast_jax.data.sources.class_csv import refuse_classes
from ast_jax.data.sources.manifest import Example, Manifest
from ast_jax.data.sources.manifest_io import check_text, is_sound, visible
from ast_jax.errors import InputError

SPLITS = {"train", "test", "validation", "valid", "val", "dev", "eval", "evaluation"}


def list_folder(source: Path, classes: Path | None = None, holdout: float = 0.2) -> Manifest:
    """Lists `source/LABEL/*.wav` or `source/SPLIT/LABEL/*.wav`, labels in alphabetical order.

    The folders are splits if they are `train` and one or more others of `SPLITS`, and each has
    subfolders. Otherwise the splits are `train` and `test`: a file is in `test` if the CRC-32 of
    `LABEL/name`, divided by 2**32, is below `holdout`, which does not depend on other files. If
    that leaves a class without a file in one split, the file with the lowest CRC moves to
    `test`, or the one with the highest to `train`.

    A clip's id is `LABEL/name`. Hidden files and those without a suffix of
    `manifest_io.SUFFIXES` are skipped.

    Args:
        source: the folder of a folder per class, or of a folder per split with one per class.
        classes: must be None, as the folders are the classes.
        holdout: the share of files to hold out, on average; at least one per class.

    Raises:
        InputError: there are fewer than two classes, a class has no files, or fewer than two
            where `holdout` applies.
    """
    refuse_classes(classes, "a folder for each class")
    source = Path(source).absolute()
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; give one with a folder for each class")
    if not 0 < holdout < 1:
        raise InputError(f"holdout is {holdout}; give a number between 0 and 1")
    folders = _folders(source)
    if _are_splits(folders):
        return _list_splits(source, folders)
    labels = _labels(source, folders)
    train, test = [], []
    for index, folder in enumerate(folders):
        files = _sound_files(folder)
        if len(files) < 2:
            raise InputError(
                f"{folder}: has {len(files)} sound files; add some, as a class needs two or more, "
                f"one of them to hold out"
            )
        files.sort(key=_hash)
        count = sum(_hash(file) < holdout for file in files)
        count = min(max(count, 1), len(files) - 1)
        test += _examples(files[:count], index)
        train += _examples(files[count:], index)
    return Manifest(labels, {"train": train, "test": test}, [])


def _are_splits(folders: list[Path]) -> bool:
    names = {folder.name for folder in folders}
    return "train" in names and len(names) > 1 and names <= SPLITS and all(map(_folders, folders))


def _list_splits(source: Path, folders: list[Path]) -> Manifest:
    folders.sort(key=lambda folder: folder.name != "train")  # train first
    labels = _labels(source / "train", _folders(source / "train"))
    splits: dict[str, list[Example]] = {}
    for folder in folders:
        splits[folder.name] = []
        for class_folder in _folders(folder):
            if class_folder.name not in labels:
                raise InputError(
                    f"{class_folder}: is not a class in {source / 'train'}; rename or remove it"
                )
            files = _sound_files(class_folder)
            if not files:
                raise InputError(f"{class_folder}: has no sound files; add some or remove it")
            splits[folder.name] += _examples(files, labels.index(class_folder.name))
    return Manifest(labels, splits, [])


def _folders(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.is_dir()]


def _labels(source: Path, folders: list[Path]) -> list[str]:
    if len(folders) < 2:
        raise InputError(
            f"{source}: has {len(folders)} class folders; give two or more to train on"
        )
    for folder in folders:
        check_text(folder.name, "the name of the folder", str(source))
    return [folder.name for folder in folders]


def _sound_files(folder: Path) -> list[Path]:
    files = [path for path in visible(folder) if is_sound(path.name) and path.is_file()]
    for file in files:
        check_text(file.name, "the name of the file", str(folder))
    return files


def _examples(files: list[Path], label: int) -> list[Example]:
    return [Example(f"{file.parent.name}/{file.name}", str(file), (label,)) for file in files]


def _hash(file: Path) -> float:
    """Returns a pseudorandom number in [0, 1) that depends on the class and the file's name."""
    return zlib.crc32(os.fsencode(f"{file.parent.name}/{file.name}")) / 2**32
