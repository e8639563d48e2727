"""Lists FSD50K (Fonseca et al. 2022): its ground truth and the existing sound files."""

import os
from pathlib import Path

from ast_jax.data.sources.class_csv import refuse_classes
from ast_jax.data.sources.manifest import (
    Example,
    Manifest,
    claim,
    label_indices,
    none_found,
    split_name,
)
from ast_jax.data.sources.tables import parse_csv, read_lines, read_table
from ast_jax.errors import InputError

GROUND_TRUTH = "FSD50K.ground_truth"


def list_fsd50k(source: Path, classes: Path | None = None) -> Manifest:
    """Lists the clips of `dev.csv` and `eval.csv`: splits `train`, `val` and `eval`.

    A split exists if its list does and it has a clip. Classes are the 200 of `vocabulary.csv`. A
    clip's id is its number.

    Source: https://zenodo.org/records/4060432

    Args:
        source: the folder of `FSD50K.ground_truth`, `FSD50K.dev_audio` and `FSD50K.eval_audio`.
        classes: must be None, as the vocabulary has the classes.

    Raises:
        InputError: there is no list, a line cannot be used, or no sound file exists.
    """
    refuse_classes(classes, "FSD50K")
    source = Path(source).absolute()
    folder = source / GROUND_TRUTH
    lists = [name for name in ("dev", "eval") if (folder / f"{name}.csv").is_file()]
    if not lists:
        raise InputError(f"{folder}: has neither dev.csv nor eval.csv; add one")
    labels = _read_vocabulary(folder / "vocabulary.csv")
    index = {label: i for i, label in enumerate(labels)}
    splits: dict[str, list[Example]] = {}
    missing: list[str] = []
    seen: dict[tuple[str, str], str] = {}
    for name in lists:
        columns = ("fname", "labels", "split") if name == "dev" else ("fname", "labels")
        for where, row in read_table(folder / f"{name}.csv", columns):
            claim(seen, "", row["fname"], where)
            split = split_name(row.get("split", name), where)
            path = str(source / f"FSD50K.{name}_audio" / f"{row['fname']}.wav")
            targets = label_indices(row["labels"].split(","), index, where)
            if os.path.isfile(path):
                splits.setdefault(split, []).append(Example(row["fname"], path, targets))
            else:
                missing.append(f"{where}: {path} does not exist")
    if not splits:
        raise none_found(folder, missing)
    return Manifest(labels, splits, missing)


def _read_vocabulary(file: Path) -> list[str]:
    """Returns the names in lines of `index,name,mid`, which have no line of column names."""
    labels: list[str] = []
    for line, fields in parse_csv(file, read_lines(file, "CSV")):
        if len(fields) != 3 or fields[0] != str(len(labels)) or fields[1] in labels:
            raise InputError(
                f"{file}, line {line}: is not {len(labels)}, a new name and a mid; restore the file"
            )
        labels.append(fields[1])
    if not labels:
        raise InputError(f"{file}: lists no classes; restore the file")
    return labels
