"""ESC-50 and ESC-10 (Piczak 2015), in the layout of the ESC-50 repository."""

import csv
from pathlib import Path

from ast_jax.data.clips import DataSet, Recording, read_clips
from ast_jax.errors import InputError

FOLDS = range(1, 6)
COLUMNS = ("filename", "fold", "target", "category")


def read_esc50(folder: str | Path, fold: int, sampling_rate: int) -> DataSet:
    """Holds `fold` out of `meta/esc50.csv` and trains on the other four.

    Classes are those that occur, in the order of their targets: fifty, or ESC-10's ten.

    Args:
        folder: holds `audio/` and `meta/esc50.csv`.
        fold: 1 to 5.
        sampling_rate: of the waveforms, in Hz.

    Raises:
        InputError: the folder, a line of the list, or a recording cannot be used.
    """
    if fold not in FOLDS:
        raise InputError(f"data.fold is {fold}; ESC-50 has folds 1 to 5")
    file = Path(folder) / "meta" / "esc50.csv"
    rows = _read_meta(file)
    categories: dict[int, str] = {}
    for _, _, target, category in rows:
        if categories.setdefault(target, category) != category:
            raise InputError(
                f"{file}: target {target} is both '{categories[target]}' and '{category}'; give "
                f"each class a target of its own"
            )
    if len(set(categories.values())) < len(categories):
        names = sorted(categories.values())
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(
            f"{file}: category '{twice}' has several targets; give each class a target of its own"
        )
    order = {target: index for index, target in enumerate(sorted(categories))}
    audio = Path(folder) / "audio"
    held_out = [Recording(audio / name, order[target]) for name, f, target, _ in rows if f == fold]
    train = [Recording(audio / name, order[target]) for name, f, target, _ in rows if f != fold]
    if not held_out or not train:
        raise InputError(f"{folder}: fold {fold} or the folds beside it have no recordings")
    return DataSet(
        [categories[target] for target in order],
        read_clips(train, len(order), sampling_rate, "training recordings"),
        read_clips(held_out, len(order), sampling_rate, f"fold {fold}"),
    )


def _read_meta(file: Path) -> list[tuple[str, int, int, str]]:
    """(file name, fold, target, category) of every line."""
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; data.dir must be a folder laid out as the ESC-50 repository"
        )
    try:
        # utf-8-sig: spreadsheet programs put a byte order mark before the first column's name.
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            for column in COLUMNS:
                if column not in (reader.fieldnames or ()):
                    raise InputError(
                        f"{file}: the first line names no column '{column}'; take ESC-50's list"
                    )
            return [_read_row(row, f"{file}, line {reader.line_num}") for row in reader]
    except (UnicodeError, csv.Error) as error:
        raise InputError(f"{file}: not a CSV file in UTF-8 ({error}); save it as one") from None


def _read_row(row: dict[str, str | None], where: str) -> tuple[str, int, int, str]:
    # DictReader fills a short row with None.
    values = {column: (row[column] or "").strip() for column in COLUMNS}
    for column, value in values.items():
        if not value:
            raise InputError(f"{where}: {column} is empty; fill it in or leave the line out")
    name = values["filename"]
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(
            f"{where}: filename '{name}' leads out of the folder audio; name a file within it"
        )
    try:
        return name, int(values["fold"]), int(values["target"]), values["category"]
    except ValueError:
        raise InputError(
            f"{where}: fold and target must be whole numbers, not '{values['fold']}' and "
            f"'{values['target']}'; correct the line"
        ) from None
