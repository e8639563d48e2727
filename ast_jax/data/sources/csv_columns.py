"""Finds what the columns of a list of clips mean, by their names."""

from collections.abc import Mapping
from typing import NamedTuple

from ast_jax.data.sources.manifest import check_text
from ast_jax.data.sources.tables import Table, normalize_name
from ast_jax.errors import InputError, quoted, shorten

# What each column may be called, see `normalize_name`. The first name wins over the others.
NAMES = {
    "path": (
        "path", "filename", "file_name", "fname", "file", "filepath", "file_path", "wav", "audio",
        "audio_path", "segment_id",
    ),
    "labels": (
        "labels", "label", "category", "class", "classes", "class_name", "event_label", "tags",
    ),
    "split": ("split", "subset", "fold"),
    "id": ("id",),
    "group": ("group",),
    "start": ("start", "start_time", "start_seconds", "start_time_seconds", "onset"),
    "end": ("end", "end_time", "end_seconds", "end_time_seconds", "offset"),
}  # fmt: skip
ONE_HOT = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


class Columns(NamedTuple):
    """The columns of a table that are used; '' for none.

    Attributes:
        path: path of the sound file.
        labels: of the clip; '' if `classes` has them.
        split: the split, or the number of a fold.
        id: a unique name.
        group: such as the recording.
        start: of the clip in the file, in seconds.
        end: of the clip in the file, in seconds.
        classes: a column of 0 and 1 for each class.
    """

    path: str
    labels: str
    split: str
    id: str
    group: str
    start: str
    end: str
    classes: tuple[str, ...] = ()


def find_columns(table: Table, chosen: Mapping[str, str]) -> Columns:
    """Returns the columns of a table by what they mean.

    Args:
        table: the table.
        chosen: column names by keys of `NAMES`.

    Raises:
        InputError: a column is missing, or several could be meant.
    """
    found = dict.fromkeys(NAMES, "")
    for role, name in chosen.items():
        if role not in NAMES:
            raise InputError(f"--column {role}={name}: give one of {', '.join(NAMES)} and a name")
        exact = [column for column in table.columns if column == name]
        columns = exact or table.find((normalize_name(name),))
        if len(columns) != 1 or not name:
            raise InputError(
                f"{table.file}: has no column {quoted(name)}, but {listed(table.columns)}; "
                f"correct --column {role}"
            )
        (found[role],) = columns
    for role, names in NAMES.items():
        if found[role]:
            continue
        free = [column for column in table.find(names) if column not in found.values()]
        columns = [column for column in free if normalize_name(column) == names[0]] or free
        if len(columns) > 1:
            raise InputError(
                f"{table.file}: the columns {listed(columns)} could all be the {role}; choose "
                f"with --column {role}={columns[0]}"
            )
        found[role] = "".join(columns)
    if not found["path"]:
        advice = f"call it {', '.join(NAMES['path'][:4])}, or name it with --column path=NAME"
        if table.find(("slice_file_name",)):
            advice = "prepare UrbanSound8K as urbansound8k, with its folder as --source"
        raise InputError(
            f"{table.file}: the first line has the columns {listed(table.columns)}, and none of "
            f"paths; {advice}"
        )
    _check_pair(table, found["start"], found["end"], chosen)
    one_hot = () if found["labels"] else _find_one_hot(table, set(found.values()))
    return Columns(**found, classes=one_hot)


def _check_pair(table: Table, start: str, end: str, chosen: Mapping[str, str]) -> None:
    """Raises InputError unless a table has a start and an end of segments, or neither.

    A lone `offset` is where a segment starts in some lists and where it ends in others.
    """
    if bool(start) != bool(end):
        lacks, has = ("end", start) if start else ("start", end)
        raise InputError(
            f"{table.file}: has the column {quoted(has)} and none of the {lacks} of a segment; "
            f"name it with --column {lacks}=NAME, or rename {quoted(has)}"
        )
    pairs = dict(zip(NAMES["start"], NAMES["end"], strict=True))
    paired = pairs.get(normalize_name(start)) == normalize_name(end)
    if start and not paired and not {"start", "end"} & set(chosen):
        raise InputError(
            f"{table.file}: the columns {listed([start, end])} may not belong together; name "
            f"them with --column start={start} --column end={end}"
        )


def _find_one_hot(table: Table, used: set[str]) -> tuple[str, ...]:
    """Returns the columns that are classes; raises InputError if a row has other than 0 and 1."""
    classes = tuple(column for column in table.columns if column and column not in used)
    missing = f"has no column of labels ({', '.join(NAMES['labels'][:4])}, or --column labels=NAME)"
    if not classes:
        raise InputError(f"{table.file}: {missing}; add one")
    for column in classes:
        check_text(column, "a column", str(table.file))
    for where, row in table.rows():
        for column in classes:
            if row.get(column, "").lower() not in ONE_HOT:
                raise InputError(
                    f"{table.file}: {missing}, and {quoted(column)} is no class, as it is "
                    f"{quoted(row.get(column, ''))} in {where.rpartition(', ')[2]} and not 0 or 1; "
                    f"name the labels, or remove the column"
                )
    return classes


def column_notes(table: Table, found: Columns) -> list[str]:
    """Returns sentences about what was taken for what, unless columns have their first names."""
    used = {
        role: column
        for role, column in found._asdict().items()
        if role in NAMES and column and column != NAMES[role][0]
    }
    notes = []
    if used:
        what = ", ".join(f"{role} from {quoted(column)}" for role, column in used.items())
        notes.append(f"{table.file}: reads {what}")
    if found.classes:
        notes.append(
            f"{table.file}: each of {len(found.classes)} columns is a class: "
            f"{shorten(found.classes)}"
        )
    if found.start:
        notes.append(f"{table.file}: cuts clips from {found.start} to {found.end}, in seconds")
    return notes


def listed(columns: list[str]) -> str:
    """Returns the first names in quotes, for a message."""
    return shorten([quoted(column) for column in columns], 20) or "''"
