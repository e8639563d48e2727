"""Lists ESC-50, ESC-10 (Piczak 2015) and UrbanSound8K (Salamon et al. 2014), which have folds."""

import os
from pathlib import Path
from typing import NamedTuple

from ast_jax.data.sources.class_csv import refuse_classes
from ast_jax.data.sources.manifest import Example, Manifest, claim, none_found
from ast_jax.data.sources.tables import read_table
from ast_jax.errors import InputError, quoted


class Layout(NamedTuple):
    """The files and columns of a data set.

    Attributes:
        name: of the data set.
        list: path of the CSV file.
        columns: of the file's name, the fold, the number of the class and its name.
        folds: their number.
        audio: path of a sound file, of `name` and `fold`.
    """

    name: str
    list: str
    columns: tuple[str, str, str, str]
    folds: int
    audio: str


ESC50 = Layout(
    "ESC-50", "meta/esc50.csv", ("filename", "fold", "target", "category"), 5, "audio/{name}"
)
URBANSOUND8K = Layout(
    "UrbanSound8K",
    "metadata/UrbanSound8K.csv",
    ("slice_file_name", "fold", "classid", "class"),
    10,
    "audio/fold{fold}/{name}",
)
FOLDS = {"esc50": ESC50.folds, "urbansound8k": URBANSOUND8K.folds}  # by kind of source


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
    return _list_folds(ESC50, source, classes)


def list_urbansound8k(source: Path, classes: Path | None = None) -> Manifest:
    """Lists the clips of `metadata/UrbanSound8K.csv`, as `list_esc50`: `fold1` to `fold10`.

    The columns `start` and `end` are times in the recording that a clip was cut from, and not used.

    Source: https://urbansounddataset.weebly.com/urbansound8k.html
    """
    return _list_folds(URBANSOUND8K, source, classes)


def find_folds(source: Path) -> Manifest | None:
    """Lists a folder in the layout of ESC-50 or UrbanSound8K; None for another.

    Raises:
        InputError: as `list_esc50`.
    """
    for layout in (ESC50, URBANSOUND8K):
        if (source / layout.list).is_file():
            return _list_folds(layout, source, None)
    return None


def _list_folds(layout: Layout, source: Path, classes: Path | None) -> Manifest:
    refuse_classes(classes, layout.name)
    source = Path(source).absolute()
    file = source / layout.list
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; give a folder in the layout of the {layout.name} repository"
        )
    rows = [
        (where, *_read_row(layout, row, where)) for where, row in read_table(file, layout.columns)
    ]
    categories = _categories(file, [row[3:] for row in rows])
    order = {target: index for index, target in enumerate(sorted(categories))}
    splits: dict[str, list[Example]] = {f"fold{i + 1}": [] for i in range(layout.folds)}
    missing = []
    seen: dict[tuple[str, str], str] = {}
    for where, name, fold, target, _ in rows:
        # Across folds: a clip in two folds would be trained on and held out.
        claim(seen, layout.columns[0], name, where)
        path = str(source / layout.audio.format(name=name, fold=fold))
        if os.path.isfile(path):
            splits[f"fold{fold}"].append(Example(name, path, (order[target],)))
        else:
            missing.append(f"{where}: {path} does not exist")
    splits = {split: examples for split, examples in splits.items() if examples}
    if not splits:
        raise none_found(file, missing)
    return Manifest([categories[target] for target in order], splits, missing)


def _read_row(layout: Layout, row: dict[str, str], where: str) -> tuple[str, int, int, str]:
    """Returns file name, fold, target and category of a row."""
    name_column, fold_column, target_column, category_column = layout.columns
    name = row[name_column]
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(
            f"{where}: {name_column} {quoted(name)} is outside of the folder audio; name a file in "
            f"it"
        )
    try:
        fold, target = int(row[fold_column]), int(row[target_column])
    except ValueError:
        raise InputError(
            f"{where}: {fold_column} and {target_column} must be whole numbers, not "
            f"{quoted(row[fold_column])} and {quoted(row[target_column])}; correct the line"
        ) from None
    if not 1 <= fold <= layout.folds:
        raise InputError(
            f"{where}: fold is {fold}; {layout.name} has folds 1 to {layout.folds}, correct the "
            f"line"
        )
    return name, fold, target, row[category_column]


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
