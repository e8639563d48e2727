"""One's own recordings: a folder of sound files for each class."""

import os
import zlib
from pathlib import Path

from ast_jax.data.clips import DataSet, Recording, read_clips
from ast_jax.errors import InputError

# Headerless .raw is none of them: such a file does not know its sampling rate.
SUFFIXES = {
    ".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".rf64",
    ".snd", ".sph", ".voc", ".w64", ".wav", ".wave",
}  # fmt: skip


def read_folder(folder: str | Path, holdout: float, sampling_rate: int) -> DataSet:
    """Reads `folder/LABEL/*.wav` (or another of `SUFFIXES`), labels in alphabetical order.

    A file is held out if the CRC-32 of `LABEL/name`, as a share of 2**32, is below `holdout`, so
    that it stays on its side when others come or go. Only a class that would have no file on
    one side moves one there: the lowest CRC to those held out, or the highest to training.

    Args:
        folder: holds one folder a class.
        holdout: share of the files to hold out, met on average; at least one of each class.
        sampling_rate: of the waveforms, in Hz.

    Raises:
        InputError: there are fewer than two classes, a class has fewer than two files, or a
            recording cannot be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; data.dir must hold one folder for each class")
    if not 0 < holdout < 1:
        raise InputError(f"data.holdout is {holdout}; it must lie between 0 and 1")
    labels = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if len(labels) < 2:
        raise InputError(f"{folder}: holds {len(labels)} class folders; training needs two or more")
    train, held_out = [], []
    for index, label in enumerate(labels):
        files = _sound_files(folder / label)
        if len(files) < 2:
            raise InputError(
                f"{folder / label}: holds {len(files)} sound files; a class needs two or more, "
                f"one of them to hold out"
            )
        files.sort(key=_draw)
        count = sum(_draw(file) < holdout for file in files)
        count = min(max(count, 1), len(files) - 1)
        held_out += [Recording(file, index) for file in files[:count]]
        train += [Recording(file, index) for file in files[count:]]
    return DataSet(
        labels,
        read_clips(train, len(labels), sampling_rate, "training recordings"),
        read_clips(held_out, len(labels), sampling_rate, "held-out recordings"),
    )


def _sound_files(folder: Path) -> list[Path]:
    # No hidden files: macOS leaves a '._1.wav' that is no sound beside '1.wav'.
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and path.name[0] != "." and path.is_file()
    ]


def _draw(file: Path) -> float:
    """A number in [0, 1) that looks random and follows from the class and the file's name."""
    return zlib.crc32(os.fsencode(f"{file.parent.name}/{file.name}")) / 2**32
