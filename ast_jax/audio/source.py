"""Opens what a sound is read from: a file, a pipe, a file object or bytes."""

import io
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ast_jax.errors import InputError, first_line, one_line, quoted

MAX_BYTES = 2**28  # read into memory from pipes and file objects

SoundFile = str | os.PathLike[str] | bytes | BinaryIO


class Source(NamedTuple):
    """A sound file.

    Attributes:
        name: for messages, of one line.
        path: of a regular file; None if the content is in memory.
        content: of everything else.
    """

    name: str
    path: bytes | None = None
    content: bytes = b""

    def open(self) -> BinaryIO:
        """Opens the file at its beginning."""
        return io.BytesIO(self.content) if self.path is None else open(self.path, "rb")


def open_source(file: SoundFile) -> Source:
    """Returns the source of a sound; reads all but regular files into memory, up to 256 MB.

    Raises:
        InputError: there is no such file, it cannot be read, is empty or is too large for memory.
    """
    if isinstance(file, str | os.PathLike):
        return _open_path(Path(os.fsdecode(file)))
    if isinstance(file, bytes | bytearray | memoryview):
        name, content = "the sound given as bytes", bytes(file)
    elif not hasattr(file, "read"):
        raise InputError(
            f"{type(file).__name__} is not a sound file: give a path, bytes or a file object"
        )
    else:
        given = getattr(file, "name", None)
        name = one_line(given) if isinstance(given, str) else "the file object"
        content = read_content(file, name)
    if not content:
        raise InputError(f"{name} is empty: restore it or leave it out")
    return Source(name, content=content)


def read_content(file: BinaryIO, name: str) -> bytes:
    """Reads a file object from its position to its end.

    Raises:
        InputError: it is closed, has text or more than 256 MB.
    """
    content = bytearray()
    try:
        while part := file.read(2**20):
            if not isinstance(part, bytes):
                raise InputError(
                    f"{name} has {type(part).__name__} and not bytes: open it in the mode 'rb'"
                )
            content += part
            if len(content) > MAX_BYTES:
                raise InputError(
                    f"{name} has more than {MAX_BYTES >> 20} MB, which are read into memory: save "
                    f"it as a file and give its path"
                )
    except InputError:
        raise
    except (OSError, ValueError) as error:  # closed, or not opened for reading
        raise InputError(f"{name} cannot be read ({first_line(error)}): open it again") from error
    return bytes(content)


def _open_path(path: Path) -> Source:
    """Returns the source of a path; raises InputError if there is no file to read."""
    name = one_line(str(path))
    try:
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            is_regular = stat.S_ISREG(status.st_mode)
            if not is_regular and file.isatty():
                raise InputError(f"{name} is a terminal: give the path of a sound file")
            content = b"" if is_regular else read_content(file, name)
    except IsADirectoryError as error:
        raise InputError(f"{name} is a folder: give the path of a sound file") from error
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL
        if isinstance(error, InputError):
            raise
        advice = "give the path of a sound file"
        if re.match(r"\w+:/", str(path)):  # `Path` merges the slashes of a URL
            advice = "download the file first and give its path"
        raise InputError(f"{name} does not exist: {advice}") from error
    except OSError as error:
        raise InputError(
            f"{quoted(path)} cannot be read ({error.strerror}): give the path of a sound file"
        ) from error
    if is_regular and status.st_size:
        return Source(name, os.fsencode(path))
    if is_regular:
        raise InputError(f"{name} is empty: restore it or leave it out")
    if not content:
        raise InputError(f"{name} ended before its first byte: write a sound file to it")
    return Source(name, content=content)
