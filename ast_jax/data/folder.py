"""One's own recordings: a folder of sound files for each class."""

import zlib
from pathlib import Path

import soundfile

from ast_jax.data.clips import DataSet, Recording, read_clips
from ast_jax.errors import InputError


def read_folder(folder: str | Path, holdout: float, sampling_rate: int) -> DataSet:
    """Reads `folder/LABEL/*.wav` (or any format libsndfile has), labels in alphabetical order.

    Which files are held out follows from their names alone, so that a file stays on its side
    when others come or go.

    Args:
        folder: holds one folder a class.
        holdout: share of each class's files to hold out, at least one file.
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
        files = [Recording(path, index) for path in _sound_files(folder / label)]
        if len(files) < 2:
            raise InputError(
                f"{folder / label}: holds {len(files)} sound files; a class needs two or more, "
                f"one of them to hold out"
            )
        files.sort(key=lambda file: zlib.crc32(file.path.name.encode()))
        count = min(max(1, round(holdout * len(files))), len(files) - 1)
        held_out += files[:count]
        train += files[count:]
    return DataSet(
        labels,
        read_clips(train, len(labels), sampling_rate, "training recordings"),
        read_clips(held_out, len(labels), sampling_rate, "held-out recordings"),
    )


def _sound_files(folder: Path) -> list[Path]:
    endings = {f".{name.lower()}" for name in soundfile.available_formats()} | {".mp3", ".aif"}
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in endings]
