"""Lists clips of a CSV file, whatever its columns are called."""

import math
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from ast_jax.data.sources.class_csv import read_classes
from ast_jax.data.sources.csv_columns import (
    NAMES,
    ONE_HOT,
    Columns,
    column_notes,
    find_columns,
    listed,
)
from ast_jax.data.sources.files import SoundIndex, list_files
from ast_jax.data.sources.holdout import hold_out_stratified
from ast_jax.data.sources.manifest import (
    Example,
    Manifest,
    case_notes,
    check_text,
    claim,
    label_indices,
    negative_notes,
    none_found,
    shared_group_notes,
    split_name,
)
from ast_jax.data.sources.tables import Table, normalize_name, open_table
from ast_jax.errors import InputError, quoted

HOLDOUT = 0.2  # share of the clips, as of a folder

# As Python and NumPy print it; '[noise]' is a label.
PRINTED_LIST = re.compile(r"[\[({]\s*['\"]|\[.*,.*\]$|\[[\d\s.]*\]$")
SECONDS = re.compile(r"\d{1,9}(\.\d*)?([eE][+-]?\d{1,2})?", re.ASCII)
SEPARATORS = ",;|/+&"  # of labels, which people use


def list_csv(
    source: Path,
    classes: Path | None = None,
    columns: Mapping[str, str] | None = None,
    label_separator: str = "",
) -> Manifest:
    """Lists a CSV or TSV file with a line of column names, of which `NAMES` are known.

    Paths are relative to the folder of the file, and may lack the suffix of the sound file. Without
    a value, the split is `train`, the id is the path and the group, such as a recording, the clip
    alone. Without a column of labels, every column without another meaning is a class and has 0 or
    1. A clip with the labels '' has no class.

    With columns `start` and `end`, in seconds, a row is a segment of its file; rows of the same
    segment are one clip.

    With a column `group` and none `split`, a fifth of each class is held out as the split `test`,
    in whole groups, see `hold_out_stratified`. With both, a note says if a group is in several
    splits.

    Args:
        source: the file, or a folder with no other CSV or TSV file but the class CSV.
        classes: the class CSV (`index,mid,display_name`), which has the labels as names or mids;
            None for the labels that occur, in alphabetical order.
        columns: column names by keys of `NAMES`, where the file has others.
        label_separator: of the labels of a clip; '' for ';', unless that is doubtful.

    Raises:
        InputError: a file or a line cannot be used, or no sound file of a split exists.
    """
    source = Path(source).absolute()
    file = _find_list(source, classes)
    chosen = columns or {}
    known = {name for names in NAMES.values() for name in names}
    table = open_table(file, known | set(map(normalize_name, chosen.values())))
    found = find_columns(table, chosen)
    separator = label_separator or ";"
    notes = column_notes(table, found)
    if classes is not None:
        names, mids = read_classes(Path(classes))
        index = {mid: i for i, mid in enumerate(mids)} | {name: i for i, name in enumerate(names)}
    else:
        names = list(found.classes) or _find_classes(table, found, separator)
        index = {name: i for i, name in enumerate(names)}
        notes += case_notes(file, names)
        if not label_separator and not found.classes:
            notes += _separator_notes(file, index)
    splits, groups, missing = _read_clips(table, found, index, separator)
    notes += negative_notes(file, splits)
    if found.group and found.split:
        notes += shared_group_notes(file, groups)
    elif found.group:
        splits = _hold_out(splits["train"], groups["train"])
    return Manifest(names, splits, missing, notes)


def _find_list(source: Path, classes: Path | None) -> Path:
    """Returns the file that lists the clips."""
    files = list_files(source, ".csv", ".tsv")
    if len(files) > 1 and classes is not None:
        files = [file for file in files if file.resolve() != Path(classes).resolve()]
    if len(files) != 1:
        raise InputError(
            f"{source}: has {len(files)} CSV files that could list the clips; give the file"
        )
    return files[0]


def _find_classes(table: Table, found: Columns, separator: str) -> list[str]:
    """Returns the labels that occur, in alphabetical order."""
    rows = (_read_labels(found, row, where, separator) for where, row in table.rows())
    names = sorted({label for labels in rows for label in labels})
    if not names:
        raise InputError(f"{table.file}: no row has a label; add some, as there are no classes")
    return names


def _read_clips(
    table: Table, found: Columns, index: Mapping[str, int], separator: str
) -> tuple[dict[str, list[Example]], dict[str, list[str]], list[str]]:
    """Returns the clips and their groups by split, and a sentence for each missing sound file.

    Raises:
        InputError: a row cannot be used, or no sound file of a split exists.
    """
    split_names: dict[str, str] = {}
    splits: dict[str, dict[str, Example]] = {}
    missing: dict[str, list[str]] = {}
    groups: dict[str, dict[str, str]] = {}
    seen: dict[tuple[str, str], str] = {}
    sounds = SoundIndex()
    for where, row in table.rows():
        labels = _read_labels(found, row, where, separator)
        given = row.get(found.split) or "train"
        split = split_names[given] = split_names.get(given) or _split_name(found, given, where)
        segment = _read_segment(found, row, where)
        name = row.get(found.path, "")
        check_text(name, found.path, where)
        id = row.get(found.id) or (f"{name}:{segment[0]}-{segment[1]}" if segment else name)
        check_text(id, "id", where)
        path = os.path.join(table.file.parent, name)
        clips, absent = splits.setdefault(split, {}), missing.setdefault(split, [])
        for label in labels:
            if label not in index:
                _check_one(label, index, where)
        targets = label_indices(labels, index, where)
        if segment and not found.id and (split, id) in seen:  # another event of the segment
            if id in clips:
                merged = {*clips[id].labels, *targets}
                clips[id] = clips[id]._replace(labels=tuple(sorted(merged)))
            continue
        claim(seen, split, id, where)
        existing = sounds.find(path, where)
        if existing is None:
            slashes = " (write / instead of \\)" if "\\" in name else ""
            absent.append(f"{where}: {path} does not exist{slashes}")
            continue
        clips[id] = Example(id, existing, targets, segment)
        groups.setdefault(split, {})[id] = row.get(found.group) or id
    if not splits:
        raise none_found(table.file, [])
    for split, clips in splits.items():
        if not clips:
            raise none_found(table.file, missing[split])
    return (
        {split: list(clips.values()) for split, clips in splits.items()},
        {split: list(names.values()) for split, names in groups.items()},
        [line for lines in missing.values() for line in lines],
    )


def _read_labels(found: Columns, row: Mapping[str, str], where: str, separator: str) -> list[str]:
    """Returns the labels of a row."""
    if found.classes:
        return [column for column in found.classes if ONE_HOT[row[column].lower()]]
    text = row.get(found.labels)
    if text is None:
        raise InputError(
            f"{where}: ends before the column {found.labels}; add labels, or an empty field for a "
            f"clip of no class"
        )
    if not text:
        return []
    if PRINTED_LIST.match(text):
        raise InputError(
            f"{where}: {found.labels} {quoted(text)} looks like a printed list; write the labels "
            f"with {quoted(separator)} between them"
        )
    labels = [label.strip() for label in text.split(separator)]
    for label in labels:
        check_text(label, "a label", where)
    return labels


def _separator_notes(file: Path, labels: Collection[str]) -> list[str]:
    """Returns a sentence if labels may be several, such as 'dog,cat' and 'dog,bird'.

    Raises:
        InputError: all parts of a label are labels, too.
    """
    for label in labels:
        _check_one(label, labels, str(file))
    for separator in SEPARATORS:
        whole_of: dict[str, str] = {}
        for label in labels:
            parts = _parts(label, separator)
            other = next((whole_of[part] for part in parts if part and part in whole_of), None)
            if other:
                return [
                    f"{file}: labels such as {quoted(other)} and {quoted(label)} share a part; "
                    f"pass --label-separator '{separator}' if each is several labels"
                ]
            whole_of |= dict.fromkeys(parts if len(parts) > 1 else (), label)
    return []


def _check_one(label: str, labels: Collection[str], where: str) -> None:
    """Raises InputError if all parts of a label are labels, too."""
    for separator in SEPARATORS:
        parts = _parts(label, separator)
        if len(parts) > 1 and all(part in labels for part in parts):
            raise InputError(
                f"{where}: label {quoted(label)} may be {listed(parts)}, which are labels, too; "
                f"pass --label-separator '{separator}' to split at it, or ';'"
            )


def _parts(label: str, separator: str) -> list[str]:
    """Returns the distinct parts of a label."""
    return list(dict.fromkeys(part.strip() for part in label.split(separator)))


def _split_name(found: Columns, split: str, where: str) -> str:
    """Returns the name of a split, as `fold1` for `1` in a column of folds."""
    number = split.removesuffix(".0")
    if normalize_name(found.split) == "fold" and number.isdecimal():
        split = f"fold{number}"
    return split_name(split, where)


def _read_segment(found: Columns, row: Mapping[str, str], where: str) -> tuple[float, float] | None:
    """Returns the start and the end of a row's segment; an empty field is that of the file."""
    if not found.start:
        return None
    start, end = row.get(found.start) or "0", row.get(found.end, "")
    if not SECONDS.fullmatch(start) or (end and not SECONDS.fullmatch(end)):
        raise InputError(
            f"{where}: {found.start} {quoted(start)} and {found.end} {quoted(end)} must be "
            f"seconds, such as 2.5; correct the line"
        )
    segment = float(start), float(end or math.inf)
    if not segment[0] < segment[1]:
        raise InputError(
            f"{where}: {found.end} {quoted(end)} must come after {found.start} {quoted(start)}; "
            f"correct the line"
        )
    return None if segment == (0, math.inf) else segment


def _hold_out(clips: list[Example], groups: list[str]) -> dict[str, list[Example]]:
    """Returns the splits `train` and `test`; without the latter if no class has two groups."""
    held = hold_out_stratified([clip.labels or (-1,) for clip in clips], groups, HOLDOUT)
    splits = {"train": [clip for i, clip in enumerate(clips) if i not in held]}
    if held:
        splits["test"] = [clips[i] for i in sorted(held)]
    return splits
