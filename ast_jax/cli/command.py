"""Code shared by the commands: exit statuses, error messages, arguments, printing."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from ast_jax.errors import INTERRUPTED, InputError
from ast_jax.models.config import DTYPES


def run_command(name: str, action: Callable[[], int | None], subject: object) -> int:
    """Runs a command and returns its exit status.

    A user's mistake prints one sentence and returns 1; a bug keeps its traceback.

    Args:
        name: the name of the command, printed before its messages.
        action: the command; returns a status, or None for 0.
        subject: the file or folder to name if a system error names none.
    """
    try:
        return action() or 0
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        return complain(name, str(error))
    except OSError as error:  # no permission, a name too long, a full or failing disk
        return complain(name, f"{error.filename or subject}: {error.strerror or error}")
    except KeyboardInterrupt:
        return INTERRUPTED


def complain(name: str, message: str) -> int:
    """Prints an error message to stderr; returns the exit status 1."""
    print(f"{name}: {message}", file=sys.stderr)
    return 1


def print_escaped(text: str) -> None:
    """Prints text, escaping what stdout's encoding lacks, as file names may contain anything."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def non_negative(text: str) -> int:
    """Parses an integer argument of 0 or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is not 0 or more")
    return value


def positive(text: str) -> int:
    """Parses an integer argument of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Adds the argument `--dtype`."""
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="",
        help="precision of the encoder; bfloat16 is faster on GPUs and TPUs (the checkpoint's)",
    )


def dtype_change(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the change of a checkpoint's configuration that `--dtype` asks for."""
    return {"dtype": arguments.dtype} if arguments.dtype else {}
