"""The file of results that `classify` writes, which the same command continues."""

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

from ast_jax.errors import InputError, quoted
from ast_jax.io import check_free
from ast_jax.urls import check_local

PROGRESS = ".progress"  # is added to the name of the output


class Entry(NamedTuple):
    """A sound file that is finished, as an array in a line of `PATH.progress`.

    Attributes:
        file: its name.
        size: of the output then, in bytes.
        is_damaged: whether it could be read only in part.
    """

    file: str
    size: int
    is_damaged: bool = False


class OutputFile:
    """Lines about sound files, in the order of the sound files.

    Attributes:
        finished: the sound files of which all lines are there, and how often each.
        damaged: those of them that could be read only in part.
    """

    def __init__(self, target: TextIO, log: BinaryIO, entries: "Sequence[Entry]"):
        self.finished = Counter(entry.file for entry in entries)
        self.damaged = [entry.file for entry in entries if entry.is_damaged]
        self._target, self._log = target, log

    def write(self, text: str) -> None:
        """Adds whole lines about the current sound file."""
        self._target.write(text)
        self._target.flush()

    def finish(self, file: str, *, is_damaged: bool = False) -> None:
        """Records that all lines of a sound file are there; or of its part that can be read."""
        entry = Entry(file, os.fstat(self._target.fileno()).st_size, is_damaged)
        self._log.write(json.dumps(entry).encode() + b"\n")
        self._log.flush()
        self.finished[file] += 1


def check_output(path: str, suffixes: Collection[str], options: Mapping[str, Any]) -> None:
    """Checks that `open_output` can create or continue a file.

    Args:
        path: the file.
        suffixes: that it may have.
        options: see `open_output`.

    Raises:
        InputError: it is a URL, ends in none of the suffixes, exists and is complete, or was begun
            with other options.
    """
    check_local(path)
    is_begun = os.path.exists(path + PROGRESS)
    if not is_begun:
        check_free(Path(path))
    if Path(path).suffix.lower() not in suffixes:
        raise InputError(f"{path}: ends in none of {', '.join(suffixes)}; choose one of them")
    if is_begun:
        with open(path + PROGRESS, "rb") as log:
            _read_progress(log, path, options)


@contextmanager
def open_output(path: str, header: str, options: Mapping[str, Any]) -> Iterator[OutputFile]:
    """Creates a file of results, or continues the one of an interrupted command.

    Until the block ends, `PATH.progress` beside it has the options, and for each finished sound
    file its name and the size of the output then. What follows the last of them in the output, of
    a sound file that was not finished, is removed.

    Args:
        path: the file.
        header: its first line, with a line break; '' for none.
        options: what determines the lines, by name; must be the same to continue.

    Raises:
        InputError: as `check_output`, or another command is writing the file.
        OSError: the file cannot be written.
    """
    progress = Path(path + PROGRESS)
    if not progress.exists():
        check_free(Path(path))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # Names of files may be no valid UTF-8.
    encoding: Any = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    with open(progress, "a+b") as log, open(path, "a", **encoding) as target:
        _lock(log, path)
        log.seek(0)
        size = os.fstat(target.fileno()).st_size
        entries, end = _read_progress(log, path, options, size)
        finished_size = entries[-1].size if entries else 0
        output = OutputFile(target, log, entries)
        try:
            log.truncate(end)
            if size > finished_size:
                target.truncate(finished_size)
            if not end:
                log.write(json.dumps({"options": dict(options)}).encode() + b"\n")
                log.flush()
            if not entries:
                output.write(header)
            yield output
        except BaseException:
            is_empty = os.fstat(target.fileno()).st_size <= len(header.encode())
            if is_empty and not output.finished:  # nothing to continue
                progress.unlink(missing_ok=True)
                Path(path).unlink(missing_ok=True)
            raise
    progress.unlink()


def _read_progress(
    log: BinaryIO, path: str, options: Mapping[str, Any], size: int | None = None
) -> tuple[list[Entry], int]:
    """Returns the finished sound files with the sizes of the output then, and where these end.

    A last line that was not written to its end is left out, and so are sound files of which the
    output, of `size` bytes, has lost lines, as a machine that loses power may.
    """
    lines = log.read().split(b"\n")[:-1]
    try:
        stated = json.loads(lines[0])["options"] if lines else dict(options)
        entries = [Entry(*json.loads(line)) for line in lines[1:]]
        if not all(isinstance(entry.size, int) for entry in entries):
            raise TypeError
        changed = [name for name in {**stated, **options} if stated.get(name) != options.get(name)]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}{PROGRESS}: is damaged; remove it and {path}") from None
    if changed:
        before, now = (quoted(values.get(changed[0])) for values in (stated, options))
        raise InputError(
            f"{path}: was begun with {changed[0]} {before} and not {now}; give that to continue, "
            f"choose another output, or remove {path} and {path}{PROGRESS}"
        )
    if size is not None:
        entries = [entry for entry in entries if entry.size <= size]
    return entries, sum(len(line) + 1 for line in lines[: 1 + len(entries)])


def _lock(log: BinaryIO, path: str) -> None:
    """Keeps other commands from writing the same output until the log is closed."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{path}: another command is writing it; wait for its end, or choose another output"
        ) from None
