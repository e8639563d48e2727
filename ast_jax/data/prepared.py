"""Reads prepared sets: clips by index, without decoding."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from scipy.sparse import csr_array

from ast_jax.data.clips import Clips, DataSet
from ast_jax.data.statistics import read_statistics
from ast_jax.errors import InputError
from ast_jax.io import read_json

CLIPS_FILE = "clips.npz"
PARTS = ("ids", "samples", "labels", "label_counts")  # of each split in it
VERSION = "1.0.0"  # of what is stored and how; raised when either changes

# Splits to train on and to evaluate on where a configuration leaves them open.
SPLITS = {
    "audioset": ("balanced+unbalanced", "eval"),
    "speech_commands": ("train", "validation"),
}


class RecordedWaveforms(Sequence[np.ndarray]):
    """The int16 waveforms of ArrayRecord files, read when asked for; copies go to processes.

    Args:
        files: (path, number of clips) of each file.
    """

    def __init__(self, files: list[tuple[str, int]]):
        self.files = files
        self._starts = np.cumsum([0, *(count for _, count in files)])
        self._readers: dict[int, Any] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: Any) -> Any:
        """The samples (samples,) of clip `index`; they cannot be written to.

        Raises:
            InputError: the file is damaged or gone.
        """
        from array_record.python.array_record_module import ArrayRecordReader
        from tensorflow_datasets.proto import tf_example_pb2

        index = range(len(self))[index]
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        path, _ = self.files[file]
        try:
            # Threads may read at once, and may each make a reader: the last one stays.
            if file not in self._readers:
                # Small reads: by default each reader keeps 16 MB ahead, for reading in order.
                self._readers[file] = ArrayRecordReader(path, options="readahead_buffer_size:0")
            record = self._readers[file].read([index - int(self._starts[file])])[0]
        except RuntimeError as error:
            raise InputError(f"{path}: cannot be read ({error}); prepare the set again") from None
        features = tf_example_pb2.Example.FromString(record).features.feature
        return np.frombuffer(features["audio"].bytes_list.value[0], np.int16)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}


class PreparedSet(NamedTuple):
    """A prepared set, unread.

    Attributes:
        folder: where it is.
        name: of its builder.
        labels: the names of its classes.
        sampling_rate: of its clips, in Hz.
        digest: of the source it was made from.
        splits: (path, number of clips) of each split's files.
    """

    folder: Path
    name: str
    labels: list[str]
    sampling_rate: int
    digest: str
    splits: dict[str, list[tuple[str, int]]]

    def clips(self, splits: str) -> Clips:
        """The clips of one split, or of several as 'train+validation', one after another.

        Raises:
            InputError: there is no such split.
        """
        names = _names(splits)
        for name in names:
            if name not in self.splits:
                raise InputError(
                    f"{self.folder}: has no split '{name}'; it has {', '.join(self.splits)}"
                )
        with (self.folder / CLIPS_FILE).open("rb") as file, np.load(file) as arrays:
            ids, samples, labels, counts = (
                np.concatenate([arrays[f"{name}/{part}"] for name in names]) for part in PARTS
            )
        # A class a column, sparse: AudioSet's two million clips have 527 classes.
        targets = csr_array(
            (np.ones(len(labels), np.float32), labels, np.concatenate([[0], np.cumsum(counts)])),
            shape=(len(ids), len(self.labels)),
        )
        files = [file for name in names for file in self.splits[name]]
        return Clips(RecordedWaveforms(files), targets, ids, samples)


def open_prepared(folder: str | Path, name: str = "") -> PreparedSet:
    """Finds the prepared set in a folder and checks that it is whole.

    Args:
        folder: the set's own, or the `--output` of `ast-jax prepare`.
        name: of the set's builder, where the latter holds several.

    Raises:
        InputError: there is none or there are several, or it is of another version or damaged.
    """
    place = _find(Path(folder), name)
    info = read_json(place / "dataset_info.json")
    metadata = read_json(place / "metadata.json")
    try:
        if info["version"] != VERSION:
            raise InputError(
                f"{place}: was prepared by version {info['version']} of the builders and this is "
                f"{VERSION}; prepare it again"
            )
        splits = {}
        for split in info["splits"]:
            lengths = [int(length) for length in split["shardLengths"]]
            stem = f"{info['name']}-{split['name']}.array_record"
            paths = [place / f"{stem}-{i:05d}-of-{len(lengths):05d}" for i, _ in enumerate(lengths)]
            size = sum(path.stat().st_size for path in paths)
            if size != int(split["numBytes"]):
                raise InputError(
                    f"{place}: split {split['name']} has {size} bytes and should have "
                    f"{split['numBytes']}; prepare it again"
                )
            splits[split["name"]] = [
                (str(path), length) for path, length in zip(paths, lengths, strict=True) if length
            ]
        prepared = PreparedSet(
            place,
            info["name"],
            [str(label) for label in metadata["labels"]],
            int(metadata["sampling_rate"]),
            str(metadata["source_digest"]),
            splits,
        )
        with (place / CLIPS_FILE).open("rb") as file, np.load(file) as arrays:
            for split, files in splits.items():
                ids, samples, labels, counts = (arrays[f"{split}/{part}"] for part in PARTS)
                total = sum(count for _, count in files)
                if {len(ids), len(samples), len(counts)} != {total} or len(labels) != counts.sum():
                    raise InputError(
                        f"{place}: {CLIPS_FILE} and the files of split {split} differ in their "
                        f"number of clips; prepare it again"
                    )
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OSError, EOFError, BadZipFile) as error:
        raise InputError(
            f"{place}: damaged or incomplete ({type(error).__name__}: {error}); prepare it again"
        ) from None
    return prepared


def read_prepared(
    prepared: PreparedSet,
    sampling_rate: int,
    train: str,
    evaluation: str,
    fold: int,
    test: str = "",
) -> DataSet:
    """The clips to train on and those held out.

    Args:
        prepared: the set.
        sampling_rate: what the model takes, in Hz.
        train: splits to train on, as 'balanced+unbalanced'; '' for the benchmark's own.
        evaluation: the split held out; '' for the benchmark's own.
        fold: the fold of ESC-50 that is held out, where both are ''.
        test: the split that the result is tested on at the end; '' for none.

    Raises:
        InputError: the sampling rates differ, or a split is not there or not said.
    """
    if prepared.sampling_rate != sampling_rate:
        raise InputError(
            f"{prepared.folder}: was prepared at {prepared.sampling_rate} Hz and "
            f"frontend.sampling_rate is {sampling_rate}; prepare it with --sampling-rate "
            f"{sampling_rate}"
        )
    if not (train and evaluation):
        train_default, evaluation_default = default_splits(prepared, fold)
        train, evaluation = train or train_default, evaluation or evaluation_default
    if set(_names(train)) & set(_names(evaluation)):
        raise InputError(
            f"data.train is '{train}' and data.evaluation '{evaluation}'; no split may be both"
        )
    if set(_names(test)) & set(_names(f"{train}+{evaluation}")):
        raise InputError(
            f"data.test is '{test}', which is trained on or held out already; no split may be both"
        )
    return DataSet(
        prepared.labels,
        prepared.clips(train),
        prepared.clips(evaluation),
        read_statistics(prepared.folder, joined(train)),
        prepared.clips(test) if test else None,
        prepared.digest,
    )


def classes_without_clips(folder: Path) -> list[str]:
    """The classes of a prepared set that no clip of any split is of."""
    prepared = open_prepared(folder)
    counts = prepared.clips("+".join(prepared.splits)).class_counts()
    return [label for label, n in zip(prepared.labels, counts, strict=True) if n == 0]


def joined(splits: str) -> str:
    """The splits of 'b + a' in the one way that statistics are kept under: 'a+b'."""
    return "+".join(sorted(_names(splits)))


def _names(splits: str) -> list[str]:
    return [name.strip() for name in splits.split("+")]


def default_splits(prepared: PreparedSet, fold: int) -> tuple[str, str]:
    """The benchmark's own splits to train on and to evaluate on.

    Raises:
        InputError: it is no benchmark, and has more splits than `train` and another.
    """
    if prepared.name == "esc50":
        held_out = f"fold{fold}"
        return "+".join(split for split in prepared.splits if split != held_out), held_out
    if prepared.name in SPLITS:
        train, held_out = SPLITS[prepared.name]
        # One may have the clips of AudioSet's balanced list alone.
        return "+".join(split for split in _names(train) if split in prepared.splits), held_out
    others = [split for split in prepared.splits if split != "train"]
    if "train" in prepared.splits and len(others) == 1:
        return "train", others[0]
    if len(prepared.splits) == 1:
        raise InputError(
            f"{prepared.folder}: has the split {next(iter(prepared.splits))} alone; prepare it "
            f"again with another to evaluate on (by a CSV's column 'split', or a JSON file or a "
            f"folder of each)"
        )
    raise InputError(
        f"{prepared.folder}: has the splits {', '.join(prepared.splits)}; say which to train on "
        f"and which to evaluate on with data.train and data.evaluation (of ast-jax stats: --splits)"
    )


def _find(folder: Path, name: str) -> Path:
    if (folder / "dataset_info.json").is_file():
        found = folder.absolute().parent.name
        if name and name != found:
            raise InputError(f"{folder}: is a prepared set '{found}' and data.name is '{name}'")
        return folder
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the --output of ast-jax prepare")
    # By version: of a run that was cut off there may be an `incomplete.…` beside it.
    sets = sorted(info.parent for info in folder.glob(f"{name or '*'}/[0-9]*/dataset_info.json"))
    current = [place for place in sets if place.name == VERSION] or sets
    if not current:
        what = f"a prepared set '{name}'" if name else "a prepared set"
        raise InputError(f"{folder}: does not hold {what}; make one with ast-jax prepare")
    if len(current) > 1:
        names = ", ".join(place.parent.name for place in current)
        raise InputError(
            f"{folder}: holds several prepared sets; set data.name (or --name) to one of {names}"
        )
    return current[0]
