"""Code shared by the commands: exit statuses, error messages, types of arguments, printing."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ast_jax.errors import INTERRUPTED, InputError

CORES = os.cpu_count() or 1
Dtype = Literal["float32", "bfloat16"] | None


def run_command(name: str, action: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit status.

    A user's mistake prints one sentence and returns 1; a bug keeps its traceback.

    Args:
        name: the name of the command, printed before its messages.
        action: the command; returns a status, or None for 0.
    """
    try:
        return action() or 0
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        return complain(name, str(error))
    except OSError as error:  # no permission, a name too long, a full or failing disk
        file = f"{error.filename}: " if error.filename else ""
        return complain(name, f"{file}{error.strerror or error}")
    except KeyboardInterrupt:
        return INTERRUPTED


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Names a file or folder in system errors that name none, such as those of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename or isinstance(error, BrokenPipeError):
            raise
        raise InputError(f"{path}: {error.strerror or error}") from None


def complain(name: str, message: str) -> int:
    """Prints an error message to stderr; returns the exit status 1."""
    print(f"{name}: {message}", file=sys.stderr)
    return 1


def print_note(note: str) -> None:
    """Prints a note to stderr, beside the results on stdout."""
    print(f"note: {note}", file=sys.stderr)


def flush_and_exit(status: int) -> None:
    """Exits without the handlers of libraries, which may wait forever or crash."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def print_escaped(text: str) -> None:
    """Prints text, escaping what stdout's encoding lacks, as file names may contain anything."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _at_least(low: int) -> Any:
    def parse(words: list[str]) -> int:
        value = int(words[0])
        if value < low:
            raise ValueError(f"{value} is not {low} or more")
        return value

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


NonNegative = Annotated[int, _at_least(0)]
Positive = Annotated[int, _at_least(1)]


def dtype_change(dtype: Dtype) -> dict[str, Any]:
    """Returns the change of a checkpoint's configuration that `--dtype` asks for."""
    return {"dtype": dtype} if dtype else {}
