"""What the sources share: reading lists that are not to be trusted."""

import codecs
import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ast_jax.errors import InputError, quoted

# Headerless .raw is none of them: such a file does not know its sampling rate.
SUFFIXES = {
    ".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".rf64",
    ".snd", ".sph", ".voc", ".w64", ".wav", ".wave",
}  # fmt: skip

# Control characters, line breaks, and what is left of names that are not UTF-8.
NOT_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def read_lines(file: Path, kind: str) -> Iterator[str]:
    """The lines of a `kind` of text file in UTF-8, with their ends and no byte order mark.

    Raises:
        InputError: the file cannot be read, or is not UTF-8; the message names the line.
    """
    number = 0
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1:
                    # Spreadsheet programs put one before the first column's name.
                    line = line.removeprefix(codecs.BOM_UTF8)
                if b"\0" in line:
                    raise InputError(
                        f"{file}: not a {kind} file in UTF-8 (line {number} holds a NUL byte); "
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
    """The number and fields of every line that is not blank; with `spaces`, after commas too.

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
    """Every row of a CSV file whose first line names its columns, and where it stands.

    Values are stripped of spaces; those that a short row lacks are empty.

    Args:
        file: in UTF-8.
        columns: those that there must be, with text in every row.

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
                f"{where}: has {len(fields)} fields, the first line {len(header)}; put text that "
                f"holds commas in quotes"
            )
        row = dict.fromkeys(header, "") | dict(
            zip(header, (field.strip() for field in fields), strict=False)
        )
        for column in columns:
            check_text(row[column], column, where)
        yield where, row


def check_text(value: str, what: str, where: str) -> None:
    """Raises InputError unless the value is text of one line that UTF-8 can hold."""
    if not value:
        raise InputError(f"{where}: {what} is empty; fill it in or leave the clip or class out")
    if NOT_TEXT.search(value):
        raise InputError(
            f"{where}: {what} {quoted(value)} holds a line break or another character that no "
            f"name should; remove it"
        )


def claim(seen: dict[tuple[str, str], str], group: str, name: str, where: str) -> None:
    """Notes where a name stands; raises InputError if it stood in its group before."""
    before = seen.setdefault((group, name), where)
    if before is not where:
        raise InputError(
            f"{where}: {quoted(name)} stands in {before} already; leave one of them out"
        )


def none_found(where: Path, missing: list[str]) -> InputError:
    """What to raise where a list names clips and no file of them is there."""
    first = f" ({missing[0]})" if missing else ""
    return InputError(f"{where}: none of its clips is there{first}; add their sound files")


def visible(folder: Path) -> list[Path]:
    """What a folder holds, by name, without hidden files.

    macOS leaves a '._1.wav' that is no sound beside '1.wav'.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if name[0] != "."]
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be read ({error.strerror}); give a folder that can"
        ) from None


def is_sound(name: str) -> bool:
    """Whether a file's name is that of a sound file."""
    return os.path.splitext(name)[1].lower() in SUFFIXES
