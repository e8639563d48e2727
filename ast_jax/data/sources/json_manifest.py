"""Lists clips of JSON manifests in the original repository's format."""

import os
from pathlib import Path
from typing import Any

from ast_jax.data.sources.class_csv import is_class_list, read_classes
from ast_jax.data.sources.files import list_files
from ast_jax.data.sources.manifest import (
    Example,
    Manifest,
    check_text,
    claim,
    label_indices,
    negative_notes,
    none_found,
    split_name,
)
from ast_jax.errors import InputError
from ast_jax.io import read_json

MAX_MANIFEST = 1 << 30  # bytes of a JSON file; AudioSet's has a third of it


def list_json(source: Path, classes: Path | None = None) -> Manifest:
    """Lists `{"data": [{"wav": "a.wav", "labels": "/m/09x0r,/m/05zppz"}, …]}`, a file per split.

    A split has the file's name without `.json`. Paths are relative to the folder of the file. A
    clip's id is its `wav`; other keys are ignored. A clip with the labels "" has no class.

    Source: https://github.com/YuanGongND/ast (`src/dataloader.py`)

    Args:
        source: a JSON file, or a folder of them.
        classes: the class CSV (`index,mid,display_name`); None for the only one in the folder,
            which `notes` names.

    Raises:
        InputError: a file or an entry of it cannot be used, or no sound file of a split exists.
    """
    source = Path(source).absolute()
    files = list_files(source, ".json")
    if not files:
        raise InputError(f"{source}: has no .json file; give a manifest or a folder of manifests")
    notes: list[str] = []
    if classes is None:
        folder = files[0].parent
        beside = [file for file in list_files(folder, ".csv") if is_class_list(file)]
        if len(beside) != 1:
            raise InputError(
                f"{folder}: has {len(beside)} CSV files with the columns index, mid and "
                f"display_name; give the class list with --classes"
            )
        (classes,) = beside
        notes.append(f"{classes}: is the class list")
    names, mids = read_classes(classes)
    index = {mid: i for i, mid in enumerate(mids)}
    splits: dict[str, list[Example]] = {}
    missing: list[str] = []
    for file in files:
        split = split_name(file.stem, str(file))
        content = read_json(file, MAX_MANIFEST)
        clips = content.get("data") if isinstance(content, dict) else None
        if not isinstance(clips, list):
            raise InputError(
                f"{file}: not an object with a list under 'data'; write it as the original "
                f"repository's manifests"
            )
        if split in splits:
            raise InputError(f"{file}: another file is the split {split}, too; rename one")
        splits[split], absent = _read_clips(file, clips, index)
        if not splits[split]:
            raise none_found(file, absent)
        missing += absent
    return Manifest(names, splits, missing, notes + negative_notes(source, splits))


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
            if clip[key] or key == "wav":
                check_text(clip[key], key, where)
        claim(seen, "", clip["wav"], where)
        path = os.path.join(file.parent, clip["wav"])
        mids = [mid.strip() for mid in clip["labels"].split(",")] if clip["labels"] else []
        labels = label_indices(mids, index, where)
        if os.path.isfile(path):
            examples.append(Example(clip["wav"], path, labels))
        else:
            absent.append(f"{where}: {path} does not exist")
    return examples, absent
