"""Reading JSON that someone else wrote."""

import json
from pathlib import Path
from typing import Any

from ast_jax.errors import InputError


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

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
