"""Reads JSON that someone else wrote, and writes files atomically."""

import glob
import json
import os
import shutil
from collections.abc import Iterator
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


@contextmanager
def atomic_write(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to `path` if the block succeeds.

    A file or folder that is written so is complete or absent. Missing parent folders are made,
    and removed again on failure.

    Args:
        path: the file or folder to write.
        replace: replace an existing file; otherwise `path` must be free.

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
                f"{path}: cannot be written ({error.strerror or error}); choose another output"
            ) from None
        raise


def check_free(path: Path) -> None:
    """Raises `InputError` if `path` exists, even as a broken link."""
    if os.path.lexists(path):
        raise InputError(f"{path}: exists already; choose another output or remove it first")
