"""Reads JSON from untrusted files, writes files atomically, and holds folders."""

import csv
import glob
import io
import json
import os
import shutil
import socket
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ast_jax.errors import InputError

MAX_JSON = 64 << 20  # bytes of a JSON file that describes something; parsed it takes ten times that
LOCK_FILE = ".lock"


def check_regular(file: str | Path, most: int | None = None) -> None:
    """Checks a file before it is read: reading a pipe would wait, and a device may never end.

    Raises:
        InputError: it is a pipe, a device or a socket, or has more than `most` bytes.
        OSError: it cannot be found.
    """
    status = os.stat(file)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise InputError(f"{file}: is a pipe or a device, not a file; give a file")
    if most is not None and stat.S_ISREG(status.st_mode) and status.st_size > most:
        raise InputError(
            f"{file}: has {status.st_size >> 20} MiB, and {most >> 20} MiB is the most that is "
            f"read; give another file"
        )


def check_readable(file: str | Path, most: int | None = None) -> None:
    """Checks a file as `check_regular`, and that libraries will not take it for a damaged one.

    Raises:
        InputError: as `check_regular`, or this user may not read it.
        OSError: it cannot be found.
    """
    check_regular(file, most)
    if not os.access(file, os.R_OK):
        raise InputError(f"{file}: cannot be read (Permission denied); make it readable")


def read_json(path: str | Path, most: int = MAX_JSON) -> Any:
    """Reads a JSON file of at most `most` bytes.

    Raises:
        InputError: the file is missing, too large or malformed; the message names it.
    """
    try:
        check_readable(path, most)
        # Spreadsheet programs and PowerShell write a byte order mark.
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a readable file"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({error}); repair or replace it"
        ) from None


def json_checksum(content: Any) -> str:
    """Computes a CRC-32 of what JSON holds, whatever its layout and order of keys."""
    plain = json.loads(json.dumps(content))
    return f"{zlib.crc32(json.dumps(plain, sort_keys=True).encode()):08x}"


def write_json(path: str | Path, content: Any) -> None:
    """Writes a JSON file atomically, replacing an existing one."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(Path(path), replace=True) as temporary:
        # Paths may have bytes that are no UTF-8: their escapes are JSON's, too.
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows to a CSV file atomically: a column per field, empty for None or missing.

    Bytes of file names that are not UTF-8 are escaped.
    """
    fields = dict.fromkeys(name for row in rows for name in row)
    lines = [csv_line(fields), *(csv_line(map(row.get, fields)) for row in rows)]
    with atomic_write(file, replace=True) as temporary:
        text = "".join(f"{line}\n" for line in lines)
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def csv_line(values: Iterable[Any]) -> str:
    """Returns a row of a CSV file, without the line break at its end; empty for None."""
    text = io.StringIO()
    # Before Python 3.13, only the characters of the line break at the end are quoted within values.
    csv.writer(text, lineterminator="\r\n").writerow(values)
    return text.getvalue().removesuffix("\r\n")


@contextmanager
def atomic_write(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to `path` if the block succeeds.

    The block may create a file or a folder there. An incomplete one is never visible at `path`.
    Missing parent folders are created, and removed again on failure.

    Args:
        path: the file or folder to write.
        replace: whether to replace an existing file; otherwise `path` must not exist.

    Raises:
        InputError: `path` exists or cannot be written.
    """
    if not replace:
        check_free(path)
    new_parents = [parent for parent in path.parents if not parent.exists()]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        if path.parent.is_dir():
            # Orbax appends a suffix of its own while it writes.
            for leftover in path.parent.glob(f"{glob.escape(temporary.name)}*"):
                if leftover.is_dir():
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink()
        for parent in new_parents:  # innermost first
            with suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            raise InputError(
                f"{path}: cannot be written ({error.strerror or error}); free some space or choose "
                f"another output"
            ) from None
        raise


def check_free(path: Path) -> None:
    """Raises `InputError` if `path` exists, even as a broken link."""
    if os.path.lexists(path):
        raise InputError(f"{path}: exists already; choose another output or remove it first")


@contextmanager
def hold_folder(folder: Path, holder: str) -> Iterator[None]:
    """Keeps other processes from holding an existing folder, until the block or this process ends.

    The lock is of the operating system: a process that is killed holds nothing. Its file,
    `LOCK_FILE`, stays.

    Args:
        folder: the folder.
        holder: what may hold it, for the message.

    Raises:
        InputError: another process holds it.
    """
    from filelock import FileLock, Timeout

    file = folder / LOCK_FILE
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        with suppress(OSError, ValueError):
            holder += f" ({file.read_text(encoding='utf-8')[:100]})"
        raise InputError(
            f"{folder}: {holder} is writing there; wait for its end, stop it, or choose another "
            f"folder"
        ) from None
    try:
        with suppress(OSError):  # a full disk
            file.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        lock.release()


def check_not_held(folder: Path, holder: str) -> None:
    """Raises `InputError` if another process holds a folder, see `hold_folder`."""
    if (folder / LOCK_FILE).exists():
        with hold_folder(folder, holder):
            pass
