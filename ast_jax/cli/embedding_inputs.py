"""Finds the recordings to embed, with their classes where known, and reads them for the model."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ast_jax.cli.arguments import CORES
from ast_jax.cli.command import complain
from ast_jax.cli.long_recordings import read_windows
from ast_jax.cli.reading_bar import ReadingBar
from ast_jax.cli.sound_files import STDIN, expand_folders, read_ahead, read_inputs
from ast_jax.errors import InputError, print_note

if TYPE_CHECKING:
    from ast_jax.inference.classifier import AudioClassifier
    from ast_jax.inference.windows import WindowInput, WindowSlicer

UNKNOWN = (np.nan, np.nan)  # start and end of a model input that is not a window


class Recordings(NamedTuple):
    """Recordings that are not read yet.

    Attributes:
        names: the path of each, or the id of a clip of a data set.
        sounds: the path of each; or its waveform, int16, at the model's sampling rate.
        digest: changes if the recordings do.
        splits: the split of each clip of a data set; None for files.
        labels: the class names of a data set; none for files.
        targets: bool (recordings, classes), sparse; None for files.
        status: the exit status so far.
    """

    names: Sequence[str]
    sounds: Sequence[Any]
    digest: str
    splits: Sequence[str] | None = None
    labels: Sequence[str] = ()
    targets: Any = None
    status: int = 0

    @property
    def are_files(self) -> bool:
        """Whether the sounds are paths."""
        return isinstance(self.sounds[0], str)


class Row(NamedTuple):
    """A model input.

    Attributes:
        file: the index of its recording.
        times: start and end in the recording, in seconds; NaN for its beginning.
        input_values: float32 (max_length, mel_bins).
    """

    file: int
    times: tuple[float, float]
    input_values: np.ndarray


def find_recordings(
    files: Sequence[str], sampling_rate: int, name: str = "", split: str = ""
) -> Recordings:
    """Lists sound files, a prepared set, or a folder in the layout of ESC-50 or UrbanSound8K.

    Prints notes, and the errors of folders.

    Args:
        files: sound files and folders; or one folder of a data set.
        sampling_rate: of the model, in Hz.
        name: of the prepared set, where the folder holds several.
        split: of a data set, such as 'fold1+fold2'; '' for all.

    Raises:
        InputError: there are no recordings, or they cannot be used.
    """
    from ast_jax.data.prepared import has_prepared
    from ast_jax.data.sources.folds import find_folds

    if STDIN in files:
        raise InputError("standard input cannot be read again to resume; give sound files")
    if len(files) == 1 and os.path.isdir(files[0]):
        if name or has_prepared(Path(files[0])):
            return _prepared(files[0], sampling_rate, name, split)
        if manifest := find_folds(Path(files[0])):
            return _listed(files[0], manifest, split)
    if name or split:
        flag = "--name" if name else "--split"
        raise InputError(f"{flag} is for one folder of a data set; leave it out")
    sounds, status = expand_folders(files)
    if not sounds:
        raise InputError("there are no sound files; name files or folders that have some")
    return Recordings(sounds, sounds, _digest_of_files(sounds), status=status)


def _prepared(folder: str, sampling_rate: int, name: str, split: str) -> Recordings:
    from ast_jax.data.prepared import open_prepared, split_names

    prepared = open_prepared(folder, name)
    if prepared.sampling_rate != sampling_rate:
        raise InputError(
            f"{folder}: is at {prepared.sampling_rate} Hz and the checkpoint takes {sampling_rate} "
            f"Hz; prepare it with --sampling-rate {sampling_rate}"
        )
    chosen = split_names(split or "+".join(prepared.splits), prepared.splits, prepared.folder)
    clips = prepared.clips("+".join(chosen))
    if not len(clips.names):
        raise InputError(f"{folder}: has no clips in {'+'.join(chosen)}; choose another split")
    counts = [sum(count for _, count in prepared.splits[each]) for each in chosen]
    return Recordings(
        np.asarray(clips.names).tolist(),
        clips.waveforms,
        _digest([prepared.digest, *chosen]),
        np.repeat(chosen, counts).tolist(),
        prepared.labels,
        clips.targets.astype(bool),
    )


def _listed(folder: str, manifest: Any, split: str) -> Recordings:
    from scipy.sparse import csr_array

    from ast_jax.data.prepared import split_names

    for note in manifest.notes:
        print_note(note)
    for note in manifest.missing_notes:
        print_note(note)
    chosen = split_names(split or "+".join(manifest.splits), manifest.splits, folder)
    clips = [(each, clip) for each in chosen for clip in manifest.splits[each]]
    paths = [clip.path for _, clip in clips]
    ends = np.cumsum([0, *(len(clip.labels) for _, clip in clips)])
    indices = np.concatenate([clip.labels for _, clip in clips]).astype(np.int64)
    targets = csr_array(
        (np.ones(len(indices), bool), indices, ends), shape=(len(clips), len(manifest.labels))
    )
    return Recordings(
        [clip.id for _, clip in clips],
        paths,
        _digest([_digest_of_files(paths), *(each for each, _ in clips)]),
        [each for each, _ in clips],
        manifest.labels,
        targets,
    )


def _digest_of_files(paths: Sequence[str]) -> str:
    """Computes a digest of paths, sizes and times of change. Reading reports missing files."""
    lines = []
    for path in paths:
        try:
            status = os.stat(path)
            lines.append(f"{path}\0{status.st_size}\0{status.st_mtime_ns}")
        except (OSError, ValueError):
            lines.append(path)
    return _digest(lines)


def _digest(lines: Sequence[str]) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    for line in lines:
        hasher.update(line.encode(errors="surrogateescape") + b"\n")
    return hasher.hexdigest()


def read_rows(
    recordings: Recordings,
    first: int,
    classifier: "AudioClassifier",
    unusable: list[int],
    *,
    batch_size: int,
    scale_loud: bool = False,
) -> Iterator[Row]:
    """Yields the model's input of each recording, read in threads ahead of the model.

    Prints messages and notes as `read_inputs`.

    Args:
        recordings: to read.
        first: the index of the first recording to read.
        classifier: computes the inputs.
        unusable: receives the indices of recordings that cannot be used.
        batch_size: of the model.
        scale_loud: whether to divide waveforms of files that go beyond 1 by their peak.
    """
    ahead = CORES + batch_size
    if recordings.are_files:
        return _read_files(recordings.sounds, first, classifier, unusable, ahead, scale_loud)
    return _read_clips(recordings, first, classifier, unusable, ahead)


def _read_files(
    files: Sequence[str],
    first: int,
    classifier: "AudioClassifier",
    unusable: list[int],
    ahead: int,
    scale_loud: bool,
) -> Iterator[Row]:
    failed: list[str] = []
    inputs = read_inputs(list(files[first:]), classifier, ahead, failed, scale_loud=scale_loud)
    last = first - 1
    for count, (_, values) in enumerate(inputs):
        file = first + count + len(failed)
        unusable += range(last + 1, file)
        last = file
        yield Row(file, UNKNOWN, values)
    unusable += range(last + 1, len(files))


def _read_clips(
    recordings: Recordings,
    first: int,
    classifier: "AudioClassifier",
    unusable: list[int],
    ahead: int,
) -> Iterator[Row]:
    rate = classifier.feature_extractor.sampling_rate

    def read(clip: int) -> np.ndarray | InputError:
        try:
            return classifier.preprocess({"array": recordings.sounds[clip], "sampling_rate": rate})
        except InputError as error:
            return error

    remaining = range(first, len(recordings.sounds))
    for clip, result in zip(remaining, read_ahead(read, remaining, ahead), strict=True):
        if isinstance(result, InputError):
            complain(f"{recordings.names[clip]}: {result}")
            unusable.append(clip)
        else:
            yield Row(clip, UNKNOWN, result)


def read_window_rows(
    recordings: Recordings,
    first: int,
    new_slicer: "Callable[[], WindowSlicer]",
    unusable: list[int],
    bar: ReadingBar,
    *,
    scale_loud: bool = False,
) -> Iterator[Row]:
    """Yields the model's input of each window of each recording, of any length.

    Prints messages about recordings that cannot be used, or not to their end, and notes.

    Args:
        recordings: to read.
        first: the index of the first recording to read.
        new_slicer: returns a slicer for a recording.
        unusable: receives the indices of recordings that cannot be used, or not to their end.
        bar: shows how far this is.
        scale_loud: whether to divide waveforms of files that go beyond 1 by their peak.
    """
    from ast_jax.audio.pcm import to_float
    from ast_jax.inference.windows import slice_recording

    def windows(file: int, failed: list[str]) -> "Iterator[WindowInput]":
        sound, slicer = recordings.sounds[file], new_slicer()
        if recordings.are_files:
            return read_windows(sound, slicer, bar, failed, scale_loud)
        return slice_recording([to_float(sound)], slicer)

    for file in range(first, len(recordings.sounds)):
        failed: list[str] = []
        try:
            for start, end, values in windows(file, failed):
                yield Row(file, (start, end), values)
        except InputError as error:  # of a damaged prepared set
            complain(f"{recordings.names[file]}: {error}")
            failed.append(recordings.names[file])
        if failed:
            unusable.append(file)
