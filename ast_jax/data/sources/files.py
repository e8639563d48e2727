"""Finds the files of sources, those of sound among them."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ast_jax.errors import InputError
from ast_jax.io import check_regular

# Without .raw, which does not store the sampling rate.
SUFFIXES = {
    ".3gp", ".aac", ".aif", ".aifc", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mka",
    ".mp3", ".mp4", ".oga", ".ogg", ".opus", ".rf64", ".snd", ".sph", ".spx", ".voc", ".w64",
    ".wav", ".wave", ".webm", ".wma", ".wv",
}  # fmt: skip

# Folders that archives and network drives add. Like hidden ones, they are no classes.
HIDDEN = {"__MACOSX", "@eaDir"}


def list_files(source: Path, *suffixes: str) -> list[Path]:
    """Returns the file, or the files of a folder that have one of the suffixes.

    Raises:
        InputError: there is no such file or folder, or it cannot be read.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; give an existing one")
    if not source.is_dir():
        return [source]
    return [f for f in visible(source) if f.suffix.lower() in suffixes and f.is_file()]


def visible(folder: Path) -> list[Path]:
    """Returns the content of a folder in the order of names, without hidden files.

    macOS writes a hidden '._1.wav', which is no sound file, beside '1.wav', and a folder of them,
    `__MACOSX`, into archives.

    Raises:
        InputError: the folder cannot be read.
    """
    return [folder / name for name in _names(folder) if not _is_hidden(name)]


def hidden(folder: Path) -> list[str]:
    """Returns the names in a folder that `visible` leaves out."""
    return [name for name in _names(folder) if _is_hidden(name)]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be read ({error.strerror}); give a readable folder"
        ) from None


def _is_hidden(name: str) -> bool:
    return name[0] == "." or name in HIDDEN


def is_sound(name: str) -> bool:
    """Returns whether a file name has the suffix of a sound file."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def check_no_pipe(file: Path) -> None:
    """Raises InputError for a pipe or a device; decoding a broken link names it."""
    if os.path.exists(file):
        check_regular(file)


def walk(folder: Path, on_error: Callable[[InputError], None] | None = None) -> Iterator[Path]:
    """Yields the files in a folder and its subfolders in the order of names, without hidden ones.

    Follows links to folders, and enters each folder once.

    Args:
        folder: the folder.
        on_error: receives the error of a folder that cannot be read, which is passed over; None
            raises it.

    Raises:
        InputError: a folder cannot be read.
    """
    return _walk(folder, set(), on_error)


def _walk(
    folder: Path, seen: set[Path], on_error: Callable[[InputError], None] | None
) -> Iterator[Path]:
    real = folder.resolve()
    if real in seen:
        return
    seen.add(real)
    try:
        content = visible(folder)
    except InputError as error:
        if on_error is None:
            raise
        on_error(error)
        return
    for path in content:
        if os.path.isdir(path):  # `Path.is_dir` raises where a folder may not be entered
            yield from _walk(path, seen, on_error)
        else:
            yield path


def describe_skipped(names: Iterable[str]) -> str:
    """Returns a clause that counts files that are no sound files, by suffix."""
    suffixes = Counter(os.path.splitext(name)[1].lower() for name in names)
    counts = [f"{n} {suffix or 'without suffix'}" for suffix, n in suffixes.most_common(5)]
    if rest := suffixes.total() - sum(n for _, n in suffixes.most_common(5)):
        counts.append(f"{rest} others")
    return f"passed over files that are no sound files: {', '.join(counts) or 'none'}"


class SoundIndex:
    """Finds sound files by paths that may lack the suffix. Reads each folder once."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str, where: str) -> str | None:
        """Returns the path of the file, or None.

        Raises:
            InputError: several files differ in the suffix alone; `where` names the path.
        """
        if os.path.isfile(path):
            return path
        if is_sound(path):
            return None
        folder, stem = os.path.split(path)
        if folder not in self._folders:
            names: dict[str, list[str]] = {}
            with suppress(OSError, ValueError):
                for name in filter(is_sound, sorted(os.listdir(folder))):
                    names.setdefault(os.path.splitext(name)[0], []).append(name)
            self._folders[folder] = names
        found = self._folders[folder].get(stem, [])
        if len(found) > 1:
            raise InputError(f"{where}: {path} may be {' or '.join(found)}; write the suffix")
        return os.path.join(folder, found[0]) if found else None
