"""Reading JSON that someone else wrote, and writing files whole."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ast_jax.errors import InputError


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: the file is missing or malformed; the message names it.
    """
    return read_json_and_text(path)[0]


def read_json_and_text(path: str | Path) -> tuple[Any, str]:
    """As `read_json`, with the text beside it."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        return json.loads(text), text
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({error}); repair or replace it"
        ) from None


def write_json(path: str | Path, content: Any) -> None:
    """Writes a JSON file whole or not at all, in place of the one before."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with replaced(Path(path)) as place:
        place.write_text(text + "\n", encoding="utf-8")


@contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """Yields a place beside `file`, which takes the place of `file` if all goes well."""
    place = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        yield place
        os.replace(place, file)
    finally:
        place.unlink(missing_ok=True)
