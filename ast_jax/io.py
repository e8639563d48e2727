"""Reads JSON, and writes JSON, CSV and other files atomically."""

import csv
import glob
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ast_jax.errors import InputError


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
        InputError: the file is missing or malformed; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({error}); repair or replace it"
        ) from None


def write_json(path: str | Path, content: Any) -> None:
    """Writes a JSON file atomically, replacing an existing one."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(Path(path), replace=True) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows to a CSV file atomically: a column per field, empty for None or missing.

    Bytes of file names that are not UTF-8 are escaped.
    """
    text = io.StringIO()
    fields = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(file, replace=True) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", errors="backslashreplace")


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
