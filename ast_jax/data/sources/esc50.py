"""Lists ESC-50 and ESC-10 (Piczak 2015), in the layout of the ESC-50 repository."""

import os
from pathlib import Path

from ast_jax.data.sources.class_csv import refuse_classes
from ast_jax.data.sources.manifest import Example, Manifest
from ast_jax.data.sources.manifest_io import claim, none_found, quoted, read_table
from ast_jax.errors import InputError

FOLDS = range(1, 6)
COLUMNS = ("filename", "fold", "target", "category")


def list_esc50(source: Path, classes: Path | None = None) -> Manifest:
    """Lists the clips of `meta/esc50.csv`: splits `fold1` to `fold5`, without empty ones.

    Classes are those of the list, in the order of their targets: 50, or the 10 of ESC-10. A
    clip's id is its file name.

    Source: https://github.com/karolpiczak/ESC-50

    Args:
        source: the folder of `audio` and `meta`.
        classes: must be None, as the list has the classes.

    Raises:
        InputError: the folder or a line of the list cannot be used, or no sound file exists.
    """
    refuse_classes(classes, "ESC-50")
    source = Path(source).absolute()
    file = source / "meta" / "esc50.csv"
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; give a folder in the layout of the ESC-50 repository"
        )
    rows = [(where, *_read_row(row, where)) for where, row in read_table(file, COLUMNS)]
    categories = _categories(file, [row[3:] for row in rows])
    order = {target: index for index, target in enumerate(sorted(categories))}
    splits: dict[str, list[Example]] = {f"fold{fold}": [] for fold in FOLDS}
    missing = []
    seen: dict[tuple[str, str], str] = {}
    for where, name, fold, target, _ in rows:
        # Across folds: a clip in two folds would be trained on and held out.
        claim(seen, "filename", name, where)
        path = str(source / "audio" / name)
        if os.path.isfile(path):
            splits[f"fold{fold}"].append(Example(name, path, (order[target],)))
        else:
            missing.append(f"{where}: {path} does not exist")
    splits = {split: examples for split, examples in splits.items() if examples}
    if not splits:
        raise none_found(file, missing)
    return Manifest([categories[target] for target in order], splits, missing)


def _read_row(row: dict[str, str], where: str) -> tuple[str, int, int, str]:
    """Returns file name, fold, target and category of a row."""
    name = row["filename"]
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(
            f"{where}: filename {quoted(name)} is outside of the folder audio; name a file in it"
        )
    try:
        fold, target = int(row["fold"]), int(row["target"])
    except ValueError:
        raise InputError(
            f"{where}: fold and target must be whole numbers, not {quoted(row['fold'])} and "
            f"{quoted(row['target'])}; correct the line"
        ) from None
    if fold not in FOLDS:
        raise InputError(f"{where}: fold is {fold}; ESC-50 has folds 1 to 5, correct the line")
    return name, fold, target, row["category"]


def _categories(file: Path, rows: list[tuple[int, str]]) -> dict[int, str]:
    """Returns the category of each target."""
    categories: dict[int, str] = {}
    targets: dict[str, int] = {}
    for target, category in rows:
        if categories.setdefault(target, category) != category:
            raise InputError(
                f"{file}: target {target} is both {quoted(categories[target])} and "
                f"{quoted(category)}; give each class a target of its own"
            )
        if targets.setdefault(category, target) != target:
            raise InputError(
                f"{file}: category {quoted(category)} has several targets; give each class a "
                f"target of its own"
            )
    return categories
