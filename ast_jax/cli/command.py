"""Code shared by the commands: exit statuses, Ctrl-C, error messages, printing."""

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ast_jax.errors import INTERRUPTED, InputError, one_line

if TYPE_CHECKING:
    from rich.table import Table


def run_command(action: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit status.

    A user's mistake prints one sentence and returns 1; a bug keeps its traceback.

    Args:
        action: the command; returns a status, or None for 0.
    """
    _prepare_output()
    try:
        return action() or 0
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        return complain(str(error))
    except OSError as error:  # no permission, a name too long, a full or failing disk
        file = f"{error.filename}: " if error.filename else ""
        return complain(f"{file}{error.strerror or error}")
    except KeyboardInterrupt:
        return INTERRUPTED


def _prepare_output() -> None:
    """Makes stdout take any text: escapes what its encoding lacks, replaces a closed one."""
    if sys.stdout is None:
        sys.stdout = io.StringIO()
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def keeping_interrupts() -> Iterator[None]:
    """Makes Ctrl-C end the command even where KeyboardInterrupt would be lost.

    C++ extensions abort if it is raised while they are imported, and Python ignores it in the
    callbacks of its garbage collector, of which JAX has one. Nothing is to be cleaned up in the
    former case, so the process exits; in the latter it is raised again afterwards.
    """

    def interrupt_later() -> None:
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()

    def interrupt(number: int, frame: FrameType | None) -> None:
        while frame:
            if frame.f_code.co_name == "raise_again":  # a hook's exceptions are ignored, too
                return interrupt_later()
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                flush_and_exit(INTERRUPTED)
            frame = frame.f_back
        raise KeyboardInterrupt

    def raise_again(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            interrupt_later()
        else:
            hook(unraisable)

    hook = sys.unraisablehook
    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.default_int_handler:  # ignored under nohup, say
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        if sys.unraisablehook is raise_again:  # a library's hook on top of it stays
            sys.unraisablehook = hook
        signal.signal(signal.SIGINT, previous)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Names a file or folder in system errors that name none, such as those of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename or isinstance(error, BrokenPipeError):
            raise
        raise InputError(f"{path}: {error.strerror or error}") from None


def complain(message: str) -> int:
    """Prints an error message to stderr, in one line; returns the exit status 1."""
    print(one_line(f"ast-jax: {message}"), file=sys.stderr)
    return 1


def print_tables(*tables: "Table") -> None:
    """Prints tables of rich to stdout, without blank lines behind the last."""
    from rich.console import Console

    console = Console()
    with console.capture() as text:
        for table in tables:
            console.print(table)
    print(text.get().rstrip("\n"), flush=True)


def flush_and_exit(status: int) -> None:
    """Exits without the handlers of libraries, which may wait forever or crash."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
