"""Reads and checks text files that list clips, for all sources."""

import codecs
import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ast_jax.errors import InputError, quoted
from ast_jax.io import check_regular

# Without .raw, which does not store the sampling rate.
SUFFIXES = {
    ".3gp", ".aac", ".aif", ".aifc", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mka",
    ".mp3", ".mp4", ".oga", ".ogg", ".opus", ".rf64", ".snd", ".sph", ".spx", ".voc", ".w64",
    ".wav", ".wave", ".webm", ".wma", ".wv",
}  # fmt: skip

# Control characters, line breaks and lone surrogates (from names that are not UTF-8).
NOT_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def read_lines(file: Path, kind: str) -> Iterator[str]:
    """Yields the lines of a UTF-8 file, with line ends and without a byte order mark.

    Args:
        file: the file.
        kind: the kind of file that is expected, for messages.

    Raises:
        InputError: the file cannot be read, or is not UTF-8; the message names the line.
    """
    number = 0
    try:
        check_regular(file)
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1:
                    # Spreadsheet programs write one.
                    line = line.removeprefix(codecs.BOM_UTF8)
                if b"\0" in line:
                    raise InputError(
                        f"{file}: not a {kind} file in UTF-8 (line {number} has a NUL byte); "
                        f"save it as one"
                    )
                yield line.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: not a {kind} file in UTF-8 (line {number}: {error.reason}); save it as one"
        ) from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); give a {kind} file") from None


def parse_csv(
    file: Path, lines: Iterator[str], *, spaces: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yields the line number and the fields of every row that is not blank.

    Args:
        file: the file that the lines are from, for messages.
        lines: the text to parse.
        spaces: whether to skip spaces after commas.

    Raises:
        InputError: a line is not CSV; the message names it.
    """
    reader = csv.reader(lines, strict=True, skipinitialspace=spaces)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise InputError(
            f"{file}: not a CSV file in UTF-8 (line {reader.line_num}: {error}); save it as one"
        ) from None


def read_table(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the location ('FILE, line N') and the values by column of each row of a CSV file.

    The first line names the columns. Values are stripped; missing values of a short row are ''.

    Args:
        file: a UTF-8 file.
        columns: the required columns, which must have text in every row.

    Raises:
        InputError: the file, its first line or a row cannot be used; the message names it.
    """
    rows = parse_csv(file, read_lines(file, "CSV"))
    _, header = next(rows, (1, []))
    header = [name.strip() for name in header]
    for column in columns:
        if column not in header:
            raise InputError(
                f"{file}: the first line names no column '{column}'; name "
                f"{', '.join(columns)} there"
            )
    named = [name for name in header if name]
    for name in named:
        if named.count(name) > 1:
            raise InputError(
                f"{file}: the first line names the column {quoted(name)} twice; name it once"
            )
    for number, fields in rows:
        where = f"{file}, line {number}"
        if len(fields) > len(header):
            raise InputError(
                f"{where}: has {len(fields)} fields, the first line {len(header)}; put text with "
                f"commas in quotes"
            )
        row = dict.fromkeys(header, "") | dict(
            zip(header, (field.strip() for field in fields), strict=False)
        )
        for column in columns:
            check_text(row[column], column, where)
        yield where, row


def check_text(value: str, what: str, where: str) -> None:
    """Raises InputError unless the value is one line of text that UTF-8 can encode."""
    if not value:
        raise InputError(f"{where}: {what} is empty; fill it in or remove the clip or class")
    if NOT_TEXT.search(value):
        raise InputError(
            f"{where}: {what} {quoted(value)} has a line break or an invalid character; remove it"
        )


def claim(seen: dict[tuple[str, str], str], group: str, name: str, where: str) -> None:
    """Records the location of a name; raises InputError if its group has the name already."""
    first = seen.setdefault((group, name), where)
    if first is not where:
        raise InputError(f"{where}: {quoted(name)} is in {first} already; remove one of them")


def none_found(where: Path, missing: list[str]) -> InputError:
    """Returns the error for a list of clips of which no sound file exists."""
    first = f" ({missing[0]})" if missing else ""
    return InputError(f"{where}: none of its sound files exists{first}; add them")


def visible(folder: Path) -> list[Path]:
    """Returns the content of a folder in the order of names, without hidden files.

    macOS writes a hidden '._1.wav', which is no sound file, beside '1.wav'.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if name[0] != "."]
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be read ({error.strerror}); give a readable folder"
        ) from None


def is_sound(name: str) -> bool:
    """Returns whether a file name has the suffix of a sound file."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def walk(folder: Path, on_error: Callable[[InputError], None] | None = None) -> Iterator[Path]:
    """Yields the files in a folder and its subfolders in the order of names, without hidden ones.

    Follows links to folders, and enters each folder once.

    Args:
        folder: the folder.
        on_error: receives the error of a folder that cannot be read, which is passed over; None
            raises it.

    Raises:
        InputError: a folder cannot be read.
    """
    return _walk(folder, set(), on_error)


def _walk(
    folder: Path, seen: set[Path], on_error: Callable[[InputError], None] | None
) -> Iterator[Path]:
    real = folder.resolve()
    if real in seen:
        return
    seen.add(real)
    try:
        content = visible(folder)
    except InputError as error:
        if on_error is None:
            raise
        on_error(error)
        return
    for path in content:
        if os.path.isdir(path):  # `Path.is_dir` raises where a folder may not be entered
            yield from _walk(path, seen, on_error)
        else:
            yield path


def describe_skipped(names: Iterable[str]) -> str:
    """Returns a clause that counts files that are no sound files, by suffix."""
    suffixes = Counter(os.path.splitext(name)[1].lower() for name in names)
    counts = [f"{n} {suffix or 'without suffix'}" for suffix, n in suffixes.most_common(5)]
    if rest := suffixes.total() - sum(n for _, n in suffixes.most_common(5)):
        counts.append(f"{rest} others")
    return f"passed over files that are no sound files: {', '.join(counts) or 'none'}"
