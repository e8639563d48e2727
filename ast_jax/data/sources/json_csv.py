"""Lists clips of JSON manifests in the original repository's format, and of CSV files."""

import os
import re
from pathlib import Path
from typing import Any

from ast_jax.data.sources.class_csv import read_classes
from ast_jax.data.sources.folder import shared_group_notes
from ast_jax.data.sources.holdout import hold_out_stratified
from ast_jax.data.sources.manifest import Example, Manifest
from ast_jax.data.sources.manifest_io import (
    check_text,
    claim,
    none_found,
    quoted,
    read_table,
    visible,
)
from ast_jax.errors import InputError
from ast_jax.io import read_json

MAX_MANIFEST = 1 << 30  # bytes of a JSON file; AudioSet's has a third of it
HOLDOUT = 0.2  # share of the clips, as of a folder


def list_json(source: Path, classes: Path | None = None) -> Manifest:
    """Lists `{"data": [{"wav": "a.wav", "labels": "/m/09x0r,/m/05zppz"}, …]}`, a file per split.

    A split has the file's name without `.json`. Paths are relative to the folder of the file. A
    clip's id is its `wav`; other keys are ignored.

    Source: https://github.com/YuanGongND/ast (`src/dataloader.py`)

    Args:
        source: a JSON file, or a folder of them.
        classes: the class CSV (`index,mid,display_name`); None for the only CSV in the folder.

    Raises:
        InputError: a file or an entry of it cannot be used, or no sound file of a split exists.
    """
    source = Path(source).absolute()
    files = _files(source, ".json")
    if not files:
        raise InputError(f"{source}: has no .json file; give a manifest or a folder of manifests")
    if classes is None:
        beside = _files(files[0].parent, ".csv")
        if len(beside) != 1:
            raise InputError(
                f"{files[0].parent}: has {len(beside)} CSV files instead of one class list; give "
                f"the class CSV"
            )
        classes = beside[0]
    names, mids = read_classes(classes)
    index = {mid: i for i, mid in enumerate(mids)}
    splits: dict[str, list[Example]] = {}
    missing: list[str] = []
    for file in files:
        _check_split(file.stem, str(file))
        content = read_json(file, MAX_MANIFEST)
        clips = content.get("data") if isinstance(content, dict) else None
        if not isinstance(clips, list):
            raise InputError(
                f"{file}: not an object with a list under 'data'; write it as the original "
                f"repository's manifests"
            )
        splits[file.stem], absent = _read_clips(file, clips, index)
        if not splits[file.stem]:
            raise none_found(file, absent)
        missing += absent
    return Manifest(names, splits, missing)


def list_csv(source: Path, classes: Path | None = None) -> Manifest:
    """Lists a CSV file with columns `path`, `labels` and optionally `split`, `id` and `group`.

    Labels are separated by `;`. Paths are relative to the folder of the file. Without a value,
    the split is `train`, the id is the path and the group, such as a recording, the clip alone.

    With a column `group` and none `split`, a fifth of each class is held out as the split `test`,
    in whole groups, see `hold_out_stratified`. With both, a note says if a group is in several
    splits.

    Args:
        source: the CSV file, or a folder with no other CSV but the class CSV.
        classes: the class CSV (`index,mid,display_name`), which has the labels as names or mids;
            None for the labels that occur, in alphabetical order.

    Raises:
        InputError: a file or a line cannot be used, or no sound file of a split exists.
    """
    source = Path(source).absolute()
    files = _files(source, ".csv")
    if len(files) > 1 and classes is not None:
        files = [file for file in files if file.resolve() != Path(classes).resolve()]
    if len(files) != 1:
        raise InputError(
            f"{source}: has {len(files)} CSV files that could list the clips; give the file"
        )
    (file,) = files
    if classes is None:
        rows = read_table(file, ("path", "labels"))
        names = sorted({label for where, row in rows for label in _labels(row, where)})
        index = {name: i for i, name in enumerate(names)}
    else:
        names, mids = read_classes(Path(classes))
        index = {mid: i for i, mid in enumerate(mids)} | {name: i for i, name in enumerate(names)}
    splits: dict[str, list[Example]] = {}
    missing: dict[str, list[str]] = {}
    groups: dict[str, list[str]] = {}
    columns: set[str] = set()
    seen: dict[tuple[str, str], str] = {}
    for where, row in read_table(file, ("path", "labels")):
        columns = set(row)
        split, id = row.get("split") or "train", row.get("id") or row["path"]
        _check_split(split, where)
        check_text(id, "id", where)
        claim(seen, split, id, where)
        path = os.path.join(file.parent, row["path"])
        example = Example(id, path, _indices(_labels(row, where), index, where))
        clips, absent = splits.setdefault(split, []), missing.setdefault(split, [])
        if os.path.isfile(path):
            clips.append(example)
            groups.setdefault(split, []).append(row.get("group") or id)
        else:
            absent.append(f"{where}: {path} does not exist")
    if not splits:
        raise none_found(file, [])
    for split, clips in splits.items():
        if not clips:
            raise none_found(file, missing[split])
    notes = []
    if "group" in columns and "split" in columns:
        notes = shared_group_notes(file, groups)
    elif "group" in columns:
        splits = _hold_out(splits["train"], groups["train"])
    absent = [line for lines in missing.values() for line in lines]
    return Manifest(names, splits, absent, notes)


def _hold_out(clips: list[Example], groups: list[str]) -> dict[str, list[Example]]:
    """Returns the splits `train` and `test`; without the latter if no class has two groups."""
    held = hold_out_stratified([clip.labels for clip in clips], groups, HOLDOUT)
    splits = {"train": [clip for i, clip in enumerate(clips) if i not in held]}
    if held:
        splits["test"] = [clips[i] for i in sorted(held)]
    return splits


def _files(source: Path, suffix: str) -> list[Path]:
    """Returns the file, or the files of a folder that have the suffix."""
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; give an existing one")
    if not source.is_dir():
        return [source]
    return [f for f in visible(source) if f.suffix.lower() == suffix and f.is_file()]


def _read_clips(
    file: Path, clips: list[Any], index: dict[str, int]
) -> tuple[list[Example], list[str]]:
    """Returns the clips of a JSON file, and a sentence for each without a sound file."""
    examples, absent = [], []
    seen: dict[tuple[str, str], str] = {}
    for number, clip in enumerate(clips, start=1):
        where = f"{file}, entry {number}"
        if not isinstance(clip, dict):
            raise InputError(f"{where}: is not an object; write one with 'wav' and 'labels'")
        for key in ("wav", "labels"):
            if not isinstance(clip.get(key), str):
                raise InputError(f"{where}: has no string under '{key}'; add it")
            check_text(clip[key], key, where)
        claim(seen, "", clip["wav"], where)
        path = os.path.join(file.parent, clip["wav"])
        labels = _indices([mid.strip() for mid in clip["labels"].split(",")], index, where)
        if os.path.isfile(path):
            examples.append(Example(clip["wav"], path, labels))
        else:
            absent.append(f"{where}: {path} does not exist")
    return examples, absent


def _labels(row: dict[str, str], where: str) -> list[str]:
    """Returns the labels of a CSV row."""
    labels = [label.strip() for label in row["labels"].split(";")]
    for label in labels:
        check_text(label, "a label", where)
    return labels


def _indices(labels: list[str], index: dict[str, int], where: str) -> tuple[int, ...]:
    for label in labels:
        if label not in index:
            raise InputError(
                f"{where}: label {quoted(label)} is not in the class list; correct it or add it"
            )
    return tuple(sorted({index[label] for label in labels}))


def _check_split(split: str, where: str) -> None:
    # Split names become part of file names.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", split):
        raise InputError(
            f"{where}: {quoted(split)} cannot be a split's name; use letters, digits, '_', '.' "
            f"and '-'"
        )
