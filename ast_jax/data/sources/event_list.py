"""Lists the events of recordings: CSV or TSV files with a row per event.

Columns are found by the names that DCASE's DESED (`filename`, `onset`, `offset`, `event_label`) and
AudioSet's strong labels (`segment_id`, `start_time_seconds`, `end_time_seconds`, `label`) have, or
simply `filename`, `start`, `end` and `label`.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from ast_jax.data.sources.csv_columns import NAMES, listed
from ast_jax.data.sources.files import is_sound, walk
from ast_jax.data.sources.manifest import check_text
from ast_jax.data.sources.tables import Table, normalize_name, open_table
from ast_jax.errors import InputError, quoted

ROLES = {"path": "filename", "start": "start", "end": "end", "labels": "label"}
SECONDS = re.compile(r"(\d{1,9}(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)


class Event(NamedTuple):
    """A sound of a class in a recording, from `start` to `end` in seconds."""

    start: float
    end: float
    label: str


class EventList(NamedTuple):
    """The events of a list.

    Attributes:
        file: the list.
        events: of each recording, by its path; none for a recording without events.
        where: the first row of each recording, 'FILE, line N', by its path.
        notes: sentences about the list to read before training.
    """

    file: Path
    events: dict[str, list[Event]]
    where: dict[str, str]
    notes: list[str]

    @property
    def labels(self) -> list[str]:
        """The classes that occur, in alphabetical order."""
        return sorted({event.label for events in self.events.values() for event in events})


def is_event_list(path: Path) -> bool:
    """Returns whether a path is that of a list and not of a folder."""
    return path.suffix.lower() in (".csv", ".tsv", ".txt") and not path.is_dir()


def read_events(file: str | Path, folder: str | Path = "") -> EventList:
    """Reads a list of events.

    A row without start, end and label is a recording without events.

    Args:
        file: the list, with a line of column names.
        folder: of the recordings, which may be in subfolders; '' for that of the list.

    Raises:
        InputError: the file, a column or a row cannot be used, or a recording is missing or its
            name is that of several.
    """
    file = Path(file).absolute()
    table = open_table(file, {name for role in ROLES for name in NAMES[role]})
    notes: list[str] = []
    path, start, end, label = (_column(table, role, notes) for role in ROLES)
    sounds = _Recordings(Path(folder).absolute() if folder else file.parent)
    events: dict[str, list[Event]] = {}
    places: dict[str, str] = {}
    for where, row in table.rows():
        name = row.get(path, "")
        check_text(name, path, where)
        recording = sounds.find(name, where)
        places.setdefault(recording, where)
        own = events.setdefault(recording, [])
        values = row.get(start, ""), row.get(end, ""), row.get(label, "")
        if any(values):
            own.append(_event(*values, where))
    if not any(events.values()):
        raise InputError(f"{file}: has no events; add rows of {', '.join(ROLES.values())}")
    if silent := sum(not each for each in events.values()):
        notes.append(f"{file}: {silent} of {len(events)} recordings have no events")
    if unlisted := len(sounds.paths - events.keys()):
        notes.append(f"{sounds.folder}: passed over {unlisted} sound files not in {file.name}")
    return EventList(file, events, places, notes)


def _column(table: Table, role: str, notes: list[str]) -> str:
    """Returns the name of a table's column, and appends a note if others fit its role, too."""
    columns = table.find(NAMES[role])
    preferred = [c for c in columns if normalize_name(c) in (NAMES[role][0], ROLES[role])]
    if len(columns) > 1 and len(preferred) != 1:
        raise InputError(
            f"{table.file}: the columns {listed(columns)} could all be the {ROLES[role]}; remove "
            f"or rename all but one"
        )
    if not columns:
        raise InputError(
            f"{table.file}: has the columns {listed(table.columns)} and none of the {ROLES[role]}; "
            f"name one {quoted(ROLES[role])}"
        )
    chosen = (preferred or columns)[0]
    if len(columns) > 1:
        notes.append(
            f"{table.file}: the {ROLES[role]} is read from {quoted(chosen)} of {listed(columns)}"
        )
    return chosen


def _event(start: str, end: str, label: str, where: str) -> Event:
    check_text(label, "the label", where)
    if not SECONDS.fullmatch(start) or not SECONDS.fullmatch(end):
        raise InputError(
            f"{where}: start {quoted(start)} and end {quoted(end)} must be seconds, such as 2.5; "
            f"correct the line"
        )
    if not float(start) < float(end):
        raise InputError(
            f"{where}: the end {quoted(end)} must come after the start {quoted(start)}; correct "
            f"the line"
        )
    return Event(float(start), float(end), label)


class _Recordings:
    """Finds recordings in a folder and its subfolders, by path or name, with or without suffix."""

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; give that of the recordings")
        self.folder = folder
        self.paths: set[str] = set()
        self._by_name: dict[str, list[str]] = {}
        for found in walk(folder):
            if is_sound(found.name):
                self.paths.add(str(found))
                for name in (found.name, os.path.splitext(found.name)[0]):
                    self._by_name.setdefault(name, []).append(str(found))

    def find(self, name: str, where: str) -> str:
        """Returns the path of a recording.

        Raises:
            InputError: there is none, or several have the name; the message begins with `where`.
        """
        path = os.path.normpath(self.folder / name)
        if path in self.paths or os.path.isfile(path):
            return path
        base = os.path.basename(name)
        found = self._by_name.get(base, []) if base == name else []
        found = found or [p for p in self._by_name.get(base, []) if os.path.splitext(p)[0] == path]
        if len(found) == 1:
            return found[0]
        if found:
            inside = [os.path.relpath(each, self.folder) for each in found]
            raise InputError(
                f"{where}: {quoted(name)} may be {listed(inside)}; write its path in {self.folder}"
            )
        raise InputError(f"{where}: {path} does not exist; add the recording, or remove the line")
