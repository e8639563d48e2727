"""What every command shares: a user's mistake is one sentence, and a status that is not zero."""

import argparse
import os
import sys
from collections.abc import Callable

from ast_jax.errors import InputError

INTERRUPTED = 130  # what a shell reports of a command that Ctrl-C ended


def run_command(name: str, action: Callable[[], int | None], subject: object) -> int:
    """Runs a command's work and returns its exit status.

    Args:
        name: the command's, before its messages.
        action: the work; it returns a status, or None for 0.
        subject: the file or folder that a failure of the system is about if it names none.
    """
    try:
        return action() or 0
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        return complain(name, str(error))
    except OSError as error:  # no permission, a name too long, a disk that is full or fails
        return complain(name, f"{error.filename or subject}: {error.strerror or error}")
    except KeyboardInterrupt:
        return INTERRUPTED


def complain(name: str, message: str) -> int:
    """Says what is wrong on the error stream; returns the status for it."""
    print(f"{name}: {message}", file=sys.stderr)
    return 1


def non_negative(text: str) -> int:
    """A command line's whole number of zero or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is not 0 or more")
    return value


def positive(text: str) -> int:
    """A command line's whole number of one or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value
