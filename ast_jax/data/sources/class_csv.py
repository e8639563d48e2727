"""Class lists that come with a source."""

from pathlib import Path
from typing import NamedTuple

from ast_jax.data.sources.manifest_io import claim, read_table
from ast_jax.errors import InputError


class Classes(NamedTuple):
    """A class list: names and machine identifiers, each in the order of the indices."""

    names: list[str]
    mids: list[str]


def read_classes(file: Path) -> Classes:
    """A class list as the original repository has it, with columns index, mid, display_name.

    Raises:
        InputError: a row cannot be used, indices are not 0, 1, 2, …, or a class stands twice.
    """
    rows: dict[str, tuple[str, str]] = {}
    seen: dict[tuple[str, str], str] = {}
    for where, row in read_table(file, ("index", "mid", "display_name")):
        for column in ("index", "mid", "display_name"):
            claim(seen, column, row[column], where)
        rows[row["index"]] = (row["mid"], row["display_name"])
        last = where
    if not rows:
        raise InputError(f"{file}: lists no classes; give each a line")
    for index in range(len(rows)):
        if str(index) not in rows:
            raise InputError(
                f"{last}: the list ends here and has {len(rows)} classes but none of index "
                f"{index}; number them 0, 1, 2, …"
            )
    ordered = [rows[str(index)] for index in range(len(rows))]
    return Classes([name for _, name in ordered], [mid for mid, _ in ordered])


def refuse_classes(classes: Path | None, source: str) -> None:
    """Raises InputError if there is a class CSV for a source that needs none."""
    if classes is not None:
        raise InputError(f"{classes}: {source} has its own classes; leave the class CSV out")
