"""Reads CSV files and the like: a line of column names, then a line for each row.

Rules, not a guess from the content, find the delimiter: a first line `sep=;`, as Excel takes it, or
else the one of `DELIMITERS` at which the line of names has the most of the expected names.
"""

import codecs
import csv
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from ast_jax.data.sources.manifest import check_text
from ast_jax.errors import InputError, quoted, shorten
from ast_jax.io import check_readable

DELIMITERS = (",", ";", "\t", "|")
MAX_LINE = 2**20  # bytes
UNNAMED = re.compile(r"Unnamed: \d+([._]\w+)*")  # as pandas names a column without a name
SEPARATOR_LINE = re.compile(r'"?sep=([^\w\s"]|\t)"?\s*', re.IGNORECASE)


class Table(NamedTuple):
    """A CSV file.

    Attributes:
        file: its path.
        delimiter: of the fields.
        columns: the names in its first line, stripped; '' for a column without a name.
    """

    file: Path
    delimiter: str
    columns: list[str]

    def find(self, names: Collection[str]) -> list[str]:
        """Returns the columns with one of the names, in any case, with spaces or hyphens for _."""
        return [column for column in self.columns if normalize_name(column) in names]

    def rows(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yields the location ('FILE, line N') and the values by column of each row.

        Values are stripped. A short row lacks its last columns, and every row those without a
        name. Rows without text are skipped, as are empty fields beyond the last column;
        spreadsheet programs write both.

        Raises:
            InputError: a row is not CSV or has more fields than there are columns.
        """
        rows = parse_csv(self.file, _without_separator_line(self.file), self.delimiter, spaces=True)
        next(rows, None)
        for number, fields in rows:
            where = f"{self.file}, line {number}"
            values = [field.strip() for field in fields]
            while len(values) > len(self.columns) and not values[-1]:
                values.pop()
            if not any(values):
                continue
            if len(values) > len(self.columns):
                raise InputError(
                    f"{where}: has {len(values)} fields, the line of column names "
                    f"{len(self.columns)}; put text with {quoted(self.delimiter)} in double quotes"
                )
            yield where, {c: value for c, value in zip(self.columns, values, strict=False) if c}


def normalize_name(column: str) -> str:
    """Returns a column's name in lower case, with `_` for spaces and hyphens."""
    return re.sub(r"[\s-]+", "_", column.strip()).lower()


def open_table(file: Path, expected: Collection[str]) -> Table:
    """Reads the line of column names.

    Args:
        file: a UTF-8 file.
        expected: names of columns, as `normalize_name` returns them.

    Raises:
        InputError: the file cannot be read, or names a column twice.
    """
    first = next((line for line in read_lines(file, "CSV") if line.strip()), "")
    stated = SEPARATOR_LINE.fullmatch(first)
    names = next((line for line in _without_separator_line(file) if line.strip()), "")
    # Of equally good delimiters the first.
    delimiter = stated[1] if stated else max(DELIMITERS, key=lambda d: _count(names, d, expected))
    _, columns = next(
        parse_csv(file, _without_separator_line(file), delimiter, spaces=True), (1, [])
    )
    columns = ["" if UNNAMED.fullmatch(column.strip()) else column.strip() for column in columns]
    seen = set()
    for column in filter(None, columns):
        if column in seen:
            raise InputError(
                f"{file}: the first line names the column {quoted(column)} twice; name it once"
            )
        seen.add(column)
    return Table(file, delimiter, columns)


def read_table(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the location and the values of the given columns of each row of a CSV file.

    Args:
        file: a UTF-8 file.
        columns: names, as `normalize_name` returns them; they must have text in every row.

    Raises:
        InputError: the file, its first line or a row cannot be used; the message names it.
    """
    table = open_table(file, columns)
    found = {column: table.find((column,)) for column in columns}
    for column, same in found.items():
        if not same:
            raise InputError(
                f"{file}: the first line names no column '{column}'; name {', '.join(columns)} "
                f"there"
            )
        if len(same) > 1:
            raise InputError(f"{file}: has the columns {shorten(same)}; keep one of them")
    for where, row in table.rows():
        values = {column: row.get(same, "") for column, (same,) in found.items()}
        for column, value in values.items():
            check_text(value, column, where)
        yield where, values


def parse_csv(
    file: Path, lines: Iterator[str], delimiter: str = ",", *, spaces: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yields the line number and the fields of every row that is not blank.

    Args:
        file: the file that the lines are from, for messages.
        lines: the text to parse.
        delimiter: of the fields.
        spaces: whether to skip spaces after delimiters.

    Raises:
        InputError: a line is not CSV; the message names it.
    """
    reader = csv.reader(lines, strict=True, skipinitialspace=spaces, delimiter=delimiter)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise InputError(
            f"{file}: not a CSV file in UTF-8 (line {reader.line_num}: {error}); save it as one"
        ) from None


def read_lines(file: Path, kind: str) -> Iterator[str]:
    """Yields the lines of a UTF-8 file, with line ends and without a byte order mark.

    Args:
        file: the file.
        kind: the kind of file that is expected, for messages.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or has a line of more than 1 MiB; the
            message names the line.
    """
    number = 0
    try:
        check_readable(file)
        with file.open("rb") as lines:
            while line := lines.readline(MAX_LINE + 1):
                number += 1
                if number == 1:
                    # Spreadsheet programs write one.
                    line = line.removeprefix(codecs.BOM_UTF8)
                if b"\0" in line:
                    raise InputError(
                        f"{file}: not a {kind} file in UTF-8 (line {number} has a NUL byte); "
                        f"save it as one"
                    )
                if len(line) > MAX_LINE:
                    raise InputError(
                        f"{file}: not a {kind} file (line {number} has more than 1 MiB); give "
                        f"another file"
                    )
                yield line.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: not a {kind} file in UTF-8 (line {number}: {error.reason}); save it as one"
        ) from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); give a {kind} file") from None


def _without_separator_line(file: Path) -> Iterator[str]:
    """Yields the lines with a blank one for `sep=;`, which keeps line numbers."""
    at_start = True
    for line in read_lines(file, "CSV"):
        yield "\n" if at_start and SEPARATOR_LINE.fullmatch(line) else line
        at_start = at_start and not line.strip()


def _count(line: str, delimiter: str, expected: Collection[str]) -> int:
    """Returns how many expected names a line of column names has at a delimiter."""
    try:
        fields = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return 0
    return sum(normalize_name(field) in expected for field in fields)
