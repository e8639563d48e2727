"""The exception for input that cannot be used, and helpers for messages."""

import difflib
import sys
from collections.abc import Collection, Sequence

MAX_MESSAGE = 2000  # characters
INTERRUPTED = 130  # the exit status that a shell reports after Ctrl-C


class InputError(ValueError):
    """Raised for a file, field or tensor that cannot be used.

    Its message is one sentence that names the thing and says what to do. Commands print it and
    exit non-zero without a traceback; any other exception is a bug and keeps its traceback.
    Whatever the message quotes, it is one printable line of at most `MAX_MESSAGE` characters; the
    middle of a longer one is left out.
    """

    def __init__(self, message: object = ""):
        text = one_line(str(message))
        if len(text) > MAX_MESSAGE:
            text = f"{text[: MAX_MESSAGE // 2]} … {text[-MAX_MESSAGE // 2 :]}"
        super().__init__(text)


def nearest(name: str, names: Collection[str]) -> str:
    """Returns the closest of `names` to a misspelled `name`, or the first 40 if none is close."""
    # Comparing takes time in proportion to the length.
    close = difflib.get_close_matches(name[:100], names, 1)
    return ", ".join(close) or shorten(sorted(names), 40)


def shorten(names: Sequence[str], most: int = 5) -> str:
    """Returns the first names in a list for a message, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def first_line(error: BaseException | str) -> str:
    """Returns the first line of a library's error or message, at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def one_line(text: str) -> str:
    """Returns a text with line breaks, control characters and bytes that are no UTF-8 escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def quoted(value: object) -> str:
    """Returns a value in quotes, escaped to one line and cut to 80 characters."""
    text = str(value)
    text = text if len(text) <= 80 else text[:79] + "…"
    return f"'{one_line(text)}'"


def print_note(note: str) -> None:
    """Prints a note to stderr, in one line, beside the results on stdout."""
    print(one_line(f"note: {note}"), file=sys.stderr)  # noqa: T201
