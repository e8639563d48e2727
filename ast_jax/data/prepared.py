"""Reads prepared sets: random access to clips without decoding."""

import importlib.util
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from ast_jax.audio.waveform import SAMPLING_RATES
from ast_jax.data.clips import Clips, DataSet
from ast_jax.data.recorded_waveforms import RecordedWaveforms
from ast_jax.data.sources.folds import FOLDS
from ast_jax.data.statistics import read_statistics
from ast_jax.errors import InputError, first_line, quoted
from ast_jax.io import check_readable, json_checksum, read_json
from ast_jax.npz import read_npz

CLIPS_FILE = "clips.npz"
DESCRIPTION = ("labels", "sampling_rate", "source_digest")  # of metadata.json, in its checksum
MAX_SAMPLES = 2**40  # of a clip
PARTS = ("ids", "samples", "labels", "label_counts")  # its arrays, for each split
VERSION = "1.0.0"  # of the format

# Default splits to train on and to evaluate on.
SPLITS = {
    "audioset": ("balanced+unbalanced", "eval"),
    "fsd50k": ("train", "val"),
    "speech_commands": ("train", "validation"),
}


def check_packages() -> None:
    """Raises `InputError` unless the packages of prepared sets are installed."""
    for package in ("array_record", "tensorflow_datasets"):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"prepared sets need {package}, which is not installed; pip install 'ast-jax[data]'"
            )


class PreparedSet(NamedTuple):
    """The metadata of a prepared set.

    Attributes:
        folder: the folder of the set.
        name: the kind of source.
        labels: the names of the classes.
        sampling_rate: of the clips, in Hz.
        digest: a digest of the source.
        splits: (path, number of clips) of each file of each split.
    """

    folder: Path
    name: str
    labels: list[str]
    sampling_rate: int
    digest: str
    splits: dict[str, list[tuple[str, int]]]

    def clips(self, splits: str) -> Clips:
        """Returns the clips of one split, or of several concatenated, as 'train+validation'.

        Raises:
            InputError: a split does not exist.
        """
        names = split_names(splits, self.splits, self.folder)
        arrays = read_lists(self.folder, self.splits, len(self.labels))
        ids, samples, labels, counts = (
            np.concatenate([arrays[f"{name}/{part}"] for name in names]) for part in PARTS
        )
        # Sparse: dense targets of AudioSet's two million clips take 4 GB.
        targets = csr_array(
            (np.ones(len(labels), np.float32), labels, np.concatenate([[0], np.cumsum(counts)])),
            shape=(len(ids), len(self.labels)),
        )
        files = [file for name in names for file in self.splits[name]]
        return Clips(RecordedWaveforms(files, samples), targets, ids, samples)


def read_lists(
    folder: Path, splits: Mapping[str, list[tuple[str, int]]], num_labels: int
) -> dict[str, np.ndarray]:
    """Reads the ids, lengths and classes of all clips of a prepared set, by 'SPLIT/PART'.

    Args:
        folder: of the set.
        splits: (path, number of clips) of each file of each split.
        num_labels: the number of classes.

    Raises:
        InputError: the file is damaged, or does not match the other arguments.
    """
    file = folder / CLIPS_FILE
    try:
        check_readable(file)
        arrays = read_npz(file)
        for split, files in splits.items():
            ids, samples, labels, counts = (arrays[f"{split}/{part}"] for part in PARTS)
            total = sum(count for _, count in files)
            if {len(ids), len(samples), len(counts)} != {total} or len(labels) != counts.sum():
                raise InputError(
                    f"{folder}: {CLIPS_FILE} and the files of split {split} differ in their number "
                    f"of clips; prepare it again"
                )
            # SciPy does not check the indices of a sparse matrix before it writes to them.
            for array, low, high in (
                (labels, 0, num_labels),
                (counts, 0, num_labels + 1),
                (samples, 1, MAX_SAMPLES),
            ):
                if array.ndim != 1 or array.dtype.kind != "i":
                    raise ValueError(f"{CLIPS_FILE} has arrays of {array.dtype} {array.shape}")
                if total and len(array) and not low <= array.min() <= array.max() < high:
                    raise ValueError(
                        f"{CLIPS_FILE} has numbers from {array.min()} to {array.max()} where they "
                        f"must be from {low} to {high - 1}"
                    )
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise _damaged(folder, error) from None
    return arrays


def _damaged(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"{folder}: damaged or incomplete ({type(error).__name__}: {first_line(error)}); prepare "
        f"it again"
    )


def has_prepared(folder: Path) -> bool:
    """Returns whether a folder is a prepared set, or has some, as the `--output` of prepare."""
    found = [folder / "dataset_info.json", *folder.glob("*/[0-9]*/dataset_info.json")]
    return any(file.is_file() for file in found)


def open_prepared(folder: str | Path, name: str = "") -> PreparedSet:
    """Finds the prepared set in a folder and checks that it is complete.

    Args:
        folder: the folder of the set, or the `--output` of `ast-jax prepare`.
        name: the set's kind of source, if the output has several sets.

    Raises:
        InputError: there is no set or several, it has another version or is damaged, its path is
            no UTF-8, or the packages that read it are not installed.
    """
    check_packages()
    set_folder = _find(Path(folder), name)
    try:
        str(set_folder).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{set_folder}: array_record opens paths of UTF-8 only; rename the folder"
        ) from None
    info = read_json(set_folder / "dataset_info.json")
    metadata = read_json(set_folder / "metadata.json")
    try:
        if info["version"] != VERSION:
            raise InputError(
                f"{set_folder}: has format version {info['version']} and this release reads "
                f"{VERSION}; prepare it again"
            )
        splits = {
            split["name"]: _split_files(set_folder, info["name"], split) for split in info["splits"]
        }
        if unknown := sorted(metadata.keys() - {*DESCRIPTION, "checksum"}):  # a damaged name
            raise ValueError(f"metadata.json has an unknown field {quoted(unknown[0])}")
        description = {name: metadata[name] for name in DESCRIPTION}
        if json_checksum(description) != metadata.get("checksum", json_checksum(description)):
            raise ValueError("metadata.json is not what was written: its checksum differs")
        rate = int(metadata["sampling_rate"])
        if not SAMPLING_RATES[0] <= rate <= SAMPLING_RATES[1]:
            raise ValueError(f"a sampling rate of {rate} Hz")
        prepared = PreparedSet(
            set_folder,
            str(info["name"]),
            [str(label) for label in metadata["labels"]],
            rate,
            str(metadata["source_digest"]),
            splits,
        )
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise _damaged(set_folder, error) from None
    read_lists(set_folder, prepared.splits, len(prepared.labels))
    return prepared


def _split_files(folder: Path, name: str, split: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Returns (path, number of clips) of each file of an entry of `dataset_info.json`."""
    lengths = [int(length) for length in split["shardLengths"]]
    if min(lengths, default=0) < 0:
        raise ValueError(f"split {split['name']} has files of {min(lengths)} clips")
    stem = f"{name}-{split['name']}.array_record"
    paths = [folder / f"{stem}-{i:05d}-of-{len(lengths):05d}" for i, _ in enumerate(lengths)]
    for path in paths:
        check_readable(path)
    size = sum(path.stat().st_size for path in paths)
    if size != int(split["numBytes"]):
        raise InputError(
            f"{folder}: split {split['name']} has {size} bytes instead of {split['numBytes']}; "
            f"prepare it again"
        )
    return [(str(path), length) for path, length in zip(paths, lengths, strict=True) if length]


def read_prepared(
    prepared: PreparedSet,
    sampling_rate: int,
    train: str,
    evaluation: str,
    fold: int,
    test: str = "",
) -> DataSet:
    """Returns the training, evaluation and test clips of a prepared set.

    Args:
        prepared: the set.
        sampling_rate: the model's, in Hz.
        train: the splits to train on, as 'balanced+unbalanced'; '' for the benchmark's default.
        evaluation: the split to evaluate on; '' for the benchmark's default.
        fold: the held-out fold of ESC-50 or UrbanSound8K, if `train` or `evaluation` is ''.
        test: the split to test the final parameters on; '' for none.

    Raises:
        InputError: the sampling rates differ, a split does not exist, is used twice or has no
            default.
    """
    if prepared.sampling_rate != sampling_rate:
        raise InputError(
            f"{prepared.folder}: has a sampling rate of {prepared.sampling_rate} Hz and "
            f"frontend.sampling_rate is {sampling_rate}; prepare it with --sampling-rate "
            f"{sampling_rate}"
        )
    if not (train and evaluation):
        train_default, evaluation_default = default_splits(prepared, fold)
        train, evaluation = train or train_default, evaluation or evaluation_default
    if set(_parse_splits(train)) & set(_parse_splits(evaluation)):
        raise InputError(
            f"data.train is '{train}' and data.evaluation '{evaluation}'; no split may be in both"
        )
    if set(_parse_splits(test)) & set(_parse_splits(f"{train}+{evaluation}")):
        raise InputError(
            f"data.test is '{test}', which data.train or data.evaluation has; choose another split"
        )
    return DataSet(
        prepared.labels,
        prepared.clips(train),
        prepared.clips(evaluation),
        read_statistics(prepared.folder, normalize_splits(train)),
        prepared.clips(test) if test else None,
        prepared.digest,
    )


def clips_per_class(folder: Path) -> dict[str, int]:
    """Returns the number of clips of each class of a prepared set, in all splits."""
    prepared = open_prepared(folder)
    counts = prepared.clips("+".join(prepared.splits)).class_counts()
    return dict(zip(prepared.labels, counts.tolist(), strict=True))


def normalize_splits(splits: str) -> str:
    """Returns 'a+b' for 'b + a': the key of statistics."""
    return "+".join(sorted(_parse_splits(splits)))


def split_names(text: str, available: Collection[str], where: object) -> list[str]:
    """Returns the names in 'a+b'.

    Raises:
        InputError: one of them is not in `available`; `where` names the recordings.
    """
    names = _parse_splits(text)
    for name in names:
        if name not in available:
            raise InputError(f"{where}: has no split '{name}'; it has {', '.join(available)}")
    return names


def _parse_splits(splits: str) -> list[str]:
    return [name.strip() for name in splits.split("+")]


def default_splits(prepared: PreparedSet, fold: int) -> tuple[str, str]:
    """Returns the default splits to train on and to evaluate on.

    They are the benchmark's, or `train` and the only other split.

    Raises:
        InputError: there is no default.
    """
    if prepared.name in FOLDS:
        held_out = f"fold{fold}"
        return "+".join(split for split in prepared.splits if split != held_out), held_out
    if prepared.name in SPLITS:
        train, held_out = SPLITS[prepared.name]
        # A set of AudioSet may have the balanced list alone.
        return "+".join(
            split for split in _parse_splits(train) if split in prepared.splits
        ), held_out
    others = [split for split in prepared.splits if split != "train"]
    if "train" in prepared.splits and len(others) == 1:
        return "train", others[0]
    if len(prepared.splits) == 1:
        raise InputError(
            f"{prepared.folder}: has only the split {next(iter(prepared.splits))}; prepare it "
            f"again with another to evaluate on (a column 'split' in the CSV, or a JSON file or a "
            f"folder for each split)"
        )
    raise InputError(
        f"{prepared.folder}: has the splits {', '.join(prepared.splits)}; set data.train and "
        f"data.evaluation to the ones to train and evaluate on (for ast-jax stats: --splits)"
    )


def _find(folder: Path, name: str) -> Path:
    if (folder / "dataset_info.json").is_file():
        found = folder.absolute().parent.name
        if name and name != found:
            raise InputError(
                f"{folder}: is a prepared set of '{found}' and data.name is '{name}'; clear it"
            )
        return folder
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the --output of ast-jax prepare")
    # `[0-9]*` is the version: an interrupted `ast-jax prepare` may leave `incomplete.…` beside it.
    sets = sorted(info.parent for info in folder.glob(f"{name or '*'}/[0-9]*/dataset_info.json"))
    current = [path for path in sets if path.name == VERSION] or sets
    if not current:
        what = f"a prepared set '{name}'" if name else "a prepared set"
        raise InputError(f"{folder}: does not contain {what}; make one with ast-jax prepare")
    if len(current) > 1:
        names = ", ".join(path.parent.name for path in current)
        raise InputError(
            f"{folder}: contains several prepared sets; set data.name (or --name) to one of {names}"
        )
    return current[0]
