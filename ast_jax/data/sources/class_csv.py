"""Reads class lists."""

from pathlib import Path
from typing import NamedTuple

from ast_jax.data.sources.manifest import claim
from ast_jax.data.sources.tables import open_table, read_table
from ast_jax.errors import InputError

COLUMNS = ("index", "mid", "display_name")


class Classes(NamedTuple):
    """A class list: display names and machine identifiers, in the order of the indices."""

    names: list[str]
    mids: list[str]


def read_classes(file: Path) -> Classes:
    """Reads a class list in the original repository's format: index, mid, display_name.

    Raises:
        InputError: a row cannot be used, indices are not 0, 1, 2, …, or a class is repeated.
    """
    rows: dict[str, tuple[str, str]] = {}
    seen: dict[tuple[str, str], str] = {}
    for where, row in read_table(file, COLUMNS):
        for column in COLUMNS:
            claim(seen, column, row[column], where)
        rows[row["index"]] = (row["mid"], row["display_name"])
        last = where
    if not rows:
        raise InputError(f"{file}: lists no classes; write one per line")
    for index in range(len(rows)):
        if str(index) not in rows:
            raise InputError(
                f"{last}: the list ends here with {len(rows)} classes and without index {index}; "
                f"number them 0, 1, 2, …"
            )
    ordered = [rows[str(index)] for index in range(len(rows))]
    return Classes([name for _, name in ordered], [mid for mid, _ in ordered])


def is_class_list(file: Path) -> bool:
    """Returns whether a CSV file has the columns of a class list."""
    try:
        table = open_table(file, COLUMNS)
    except InputError:
        return False
    return all(table.find((column,)) for column in COLUMNS)


def refuse_classes(classes: Path | None, source: str) -> None:
    """Raises InputError if a class CSV is given for a source that has its own classes."""
    if classes is not None:
        raise InputError(f"{classes}: {source} has its own classes; give no class CSV")
