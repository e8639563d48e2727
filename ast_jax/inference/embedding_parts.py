"""Keeps finished parts of a long computation of embeddings in a folder.

    FOLDER/settings.json  what the parts are computed with
    FOLDER/00000.npz      the first rows
    FOLDER/00001.npz      the next, …

A row is the embedding of a recording, or of a window of it. Arrays of a part:

| array        | shape     | content                                                           |
| ------------ | --------- | ----------------------------------------------------------------- |
| `embeddings` | (rows, …) | float32                                                           |
| `files`      | (rows,)   | the index of each row's recording, ascending                      |
| `times`      | (rows, 2) | its start and end in the recording, in seconds                    |
| `files_done` | ()        | the number of recordings without rows in later parts              |
| `unusable`   | (n,)      | indices of recordings that could not be read, or not to their end |
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.errors import InputError, first_line
from ast_jax.io import atomic_write, hold_folder, read_json, write_json
from ast_jax.npz import read_npz

PART_SECONDS = 10  # of work in a part at most, which an interruption loses
PART_BYTES = 16 << 20  # of embeddings in a part at most
SETTINGS_FILE = "settings.json"


class EmbeddingParts:
    """Rows of embeddings in the order of their recordings; those of finished parts are on disk.

    Attributes:
        folder: of the parts.
        files_done: the number of recordings that are finished.
        index: `files` and `times` of each finished part.
        unusable: the indices of recordings that could not be read, or not to their end.
    """

    def __init__(self, folder: Path):
        """Reads the parts in a folder, and removes those that an interruption left incomplete."""
        self.folder = folder
        self.files_done = 0
        self.index: list[tuple[np.ndarray, np.ndarray]] = []
        self.unusable: list[int] = []
        self._start_part()
        complete = 0
        while self._path(len(self.index)).exists():
            part = self._read(len(self.index))
            self.index.append((part["files"], part["times"]))
            files_done = int(part["files_done"])
            if part["files"][-1] < files_done:
                complete, self.files_done = len(self.index), files_done
                # Recordings are read ahead of the rows, and those are read again.
                self.unusable = [int(i) for i in part["unusable"] if i < files_done]
        for number in range(complete, len(self.index)):
            self._path(number).unlink()
        del self.index[complete:]

    def add(self, file: int, times: tuple[float, float], embedding: np.ndarray) -> None:
        """Adds the next row, and writes the rows before it if they make a part.

        Args:
            file: the index of the recording; not less than that of the row before.
            times: start and end of the row in the recording, in seconds.
            embedding: float32, of one shape for all rows.
        """
        if self._rows:
            is_old = time.monotonic() - self._started >= PART_SECONDS and file != self._rows[-1][0]
            if is_old or len(self._rows) * embedding.nbytes >= PART_BYTES:
                self._write_part(files_done=file)
        self._rows.append((file, times, embedding))

    def finish(self, num_files: int) -> None:
        """Writes the last part, after which all of so many recordings are finished."""
        if self._rows:
            self._write_part(files_done=num_files)
        self.files_done = num_files

    def embeddings(self) -> Iterator[np.ndarray]:
        """Yields the embeddings (rows, …) of each part."""
        for number in range(len(self.index)):
            yield self._read(number)["embeddings"]

    def _start_part(self) -> None:
        self._rows: list[tuple[int, tuple[float, float], np.ndarray]] = []
        self._started = time.monotonic()

    def _write_part(self, files_done: int) -> None:
        files, times, embeddings = (np.array(column) for column in zip(*self._rows, strict=True))
        with atomic_write(self._path(len(self.index))) as temporary, temporary.open("wb") as out:
            np.savez(
                out,
                files=files,
                times=times,
                embeddings=embeddings,
                files_done=files_done,
                unusable=np.array(self.unusable, np.int64),
            )
        self.index.append((files, times))
        self.files_done = files_done
        self._start_part()

    def _read(self, number: int) -> dict[str, np.ndarray]:
        file = self._path(number)
        try:
            part = read_npz(file)
            rows = len(part["files"])
            if not rows or part["times"].shape != (rows, 2) or len(part["embeddings"]) != rows:
                raise ValueError("its arrays differ in length")
            part["files_done"].item(), part["unusable"]
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise InputError(
                f"{file}: is damaged ({first_line(error)}); remove {self.folder} to start over"
            ) from None
        return part

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npz"


@contextmanager
def open_parts(folder: Path, settings: Mapping[str, Any]) -> Iterator[EmbeddingParts]:
    """Creates a folder of parts, or opens it to go on; no other process can until the block ends.

    The folder is removed if the block succeeds, and if it fails with nothing finished.

    Args:
        folder: of the parts.
        settings: what embeddings depend on, for JSON. Those of a folder must be equal.

    Raises:
        InputError: the folder is of other settings, is damaged or cannot be written, or another
            process has it.
    """
    file = folder / SETTINGS_FILE
    if folder.exists() and not file.exists() and any(folder.glob("[!.]*")):
        raise InputError(f"{folder}: is no folder of parts; move it or choose another output")
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); choose another output"
        ) from None
    with hold_folder(folder, "another ast-jax embed"):
        if file.exists():
            _check_settings(folder, read_json(file), settings)
        else:
            write_json(file, dict(settings))
        parts = EmbeddingParts(folder)
        try:
            yield parts
        except BaseException:
            if not parts.index:
                shutil.rmtree(folder)
                for parent in new_parents:  # innermost first
                    with suppress(OSError):
                        parent.rmdir()
            raise
        shutil.rmtree(folder)


def _check_settings(folder: Path, found: Any, settings: Mapping[str, Any]) -> None:
    if not isinstance(found, dict):
        raise InputError(f"{folder / SETTINGS_FILE}: is damaged; remove {folder} to start over")
    for name in {**settings, **found}:
        if found.get(name) != settings.get(name):
            raise InputError(
                f"{folder}: has parts of an interrupted run that differs in its {name}; repeat its "
                f"command to go on, or remove that folder to start over"
            )
