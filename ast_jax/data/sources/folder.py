"""One's own recordings: a folder of sound files for each class."""

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

    The folders are splits if `train` and another of `SPLITS` are there, nothing else is, and
    each of them holds folders. Otherwise the splits are `train` and `test`: a file is held out
    for `test` if the CRC-32 of `LABEL/name`, as a share of 2**32, is below `holdout`, so that it
    stays on its side when others come or go. Only a class that would have no file on one side
    moves one there: the lowest CRC to those held out, or the highest to training.

    A clip's id is `LABEL/name`. Files of other endings than `reading.SUFFIXES` and hidden ones
    are passed over.

    Args:
        source: holds one folder a class, or one a split that holds one a class.
        classes: must be None; the folders are the classes.
        holdout: share of the files to hold out, met on average; at least one of each class.

    Raises:
        InputError: there are fewer than two classes, or a class has no files, or fewer than the
            two that holding out takes.
    """
    refuse_classes(classes, "a folder for each class")
    source = Path(source).absolute()
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; give one that holds one folder for each class")
    if not 0 < holdout < 1:
        raise InputError(f"holdout is {holdout}; it must lie between 0 and 1")
    folders = _folders(source)
    if _are_splits(folders):
        return _listing_of_splits(source, folders)
    labels = _labels(source, folders)
    train, test = [], []
    for index, folder in enumerate(folders):
        files = _sound_files(folder)
        if len(files) < 2:
            raise InputError(
                f"{folder}: holds {len(files)} sound files; a class needs two or more, one of "
                f"them to hold out"
            )
        files.sort(key=_draw)
        count = sum(_draw(file) < holdout for file in files)
        count = min(max(count, 1), len(files) - 1)
        test += _entries(files[:count], index)
        train += _entries(files[count:], index)
    return Manifest(labels, {"train": train, "test": test}, [])


def _are_splits(folders: list[Path]) -> bool:
    names = {folder.name for folder in folders}
    return "train" in names and len(names) > 1 and names <= SPLITS and all(map(_folders, folders))


def _listing_of_splits(source: Path, folders: list[Path]) -> Manifest:
    folders.sort(key=lambda folder: folder.name != "train")  # the first, the others stay
    labels = _labels(source / "train", _folders(source / "train"))
    splits: dict[str, list[Example]] = {}
    for folder in folders:
        splits[folder.name] = []
        for class_folder in _folders(folder):
            if class_folder.name not in labels:
                raise InputError(
                    f"{class_folder}: no class of {source / 'train'}; rename it or leave it out"
                )
            files = _sound_files(class_folder)
            if not files:
                raise InputError(f"{class_folder}: holds 0 sound files; add some or leave it out")
            splits[folder.name] += _entries(files, labels.index(class_folder.name))
    return Manifest(labels, splits, [])


def _folders(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.is_dir()]


def _labels(source: Path, folders: list[Path]) -> list[str]:
    if len(folders) < 2:
        raise InputError(
            f"{source}: holds {len(folders)} class folders; training needs two or more"
        )
    for folder in folders:
        check_text(folder.name, "the name of the folder", str(source))
    return [folder.name for folder in folders]


def _sound_files(folder: Path) -> list[Path]:
    files = [path for path in visible(folder) if is_sound(path.name) and path.is_file()]
    for file in files:
        check_text(file.name, "the name of the file", str(folder))
    return files


def _entries(files: list[Path], label: int) -> list[Example]:
    return [Example(f"{file.parent.name}/{file.name}", str(file), (label,)) for file in files]


def _draw(file: Path) -> float:
    """A number in [0, 1) that looks random and follows from the class and the file's name."""
    return zlib.crc32(os.fsencode(f"{file.parent.name}/{file.name}")) / 2**32
