"""Finds the sound files to classify, and reads them in threads ahead of the model."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ast_jax.cli.arguments import CORES
from ast_jax.cli.command import complain
from ast_jax.errors import InputError, one_line, print_note, quoted

if TYPE_CHECKING:
    import numpy as np

    from ast_jax.audio.decode import Recording
    from ast_jax.inference.classifier import AudioClassifier

S = TypeVar("S")
T = TypeVar("T")

STDIN = "-"


def expand_folders(files: Sequence[str]) -> tuple[list[str], int]:
    """Returns the files with folders replaced by the sounds in them, and the exit status so far.

    Prints the errors of folders.
    """
    errors: list[InputError] = []
    sounds = []
    for file in files:
        sounds += find_sounds(file, errors.append) if os.path.isdir(file) else [file]
    for error in errors:
        complain(str(error))
    return sounds, 1 if errors else 0


def find_sounds(folder: str, on_error: Callable[[InputError], None]) -> list[str]:
    """Returns the sound files in a folder and its subfolders, in the order of names.

    Prints a note that counts the files with other suffixes. Hidden files are skipped.

    Args:
        folder: the folder.
        on_error: receives the error of each folder that cannot be read, of pipes and devices,
            and of a folder without sound files.
    """
    from ast_jax.data.sources.files import check_no_pipe, describe_skipped, is_sound, walk

    errors: list[InputError] = []
    sounds, others = [], []
    for path in walk(Path(folder), errors.append):
        if not is_sound(path.name):
            others.append(path.name)
            continue
        try:
            check_no_pipe(path)
        except InputError as error:
            errors.append(error)
        else:
            sounds.append(str(path))
    if not sounds and not errors:
        errors.append(InputError(f"{folder}: has no sound files; {describe_skipped(others)}"))
    for each in errors:
        on_error(each)
    if not sounds:
        return []
    if others:
        print_note(f"{folder}: {describe_skipped(others)}")
    return sounds


def read_inputs(
    files: list[str],
    classifier: "AudioClassifier",
    ahead: int,
    unusable: list[str],
    *,
    scale_loud: bool = False,
    advice: str = "--window {seconds:g} classifies all of it",
) -> "Iterator[tuple[str, np.ndarray]]":
    """Yields each file with the model's input from it.

    Prints a message about a file that cannot be used, and notes about one that is unusual, about
    the first that is longer than the model's input, and about the number of such files.

    Args:
        files: paths; "-" for a sound file on standard input.
        classifier: computes the inputs.
        ahead: how many files threads are ahead.
        unusable: receives the files that cannot be used.
        scale_loud: whether to divide waveforms that go beyond 1 by their peak.
        advice: about files that are longer than the `seconds` of the model's input.
    """
    extractor = classifier.feature_extractor

    def read(file: str) -> "tuple[Recording, np.ndarray] | Exception":
        try:
            recording = read_file(file, classifier, scale_loud)
            return recording, extractor(recording.waveform, extractor.sampling_rate)[0]
        except (InputError, OSError) as error:
            return error

    long = 0
    for file, result in zip(files, read_ahead(read, files, ahead), strict=True):
        if isinstance(result, Exception):
            unusable.append(file)
            complain_about(file, result)
            continue
        recording, inputs = result
        for note in filter(None, (recording.note, recording.level_note)):
            print_note(note)
        if recording.seconds is None or recording.seconds > 1.05 * classifier.seconds:
            if not long:
                note_length(file, recording.seconds, classifier.seconds, advice)
            long += 1
        yield file, inputs
    if long > 1:
        others = "another file" if long == 2 else f"{long - 1} other files"
        print_note(f"the model uses the first {classifier.seconds:.1f} s of {others}, too")


def read_file(file: str, classifier: "AudioClassifier", scale_loud: bool) -> "Recording":
    """Reads as much of a sound file, or of standard input, as the model uses.

    Raises:
        InputError: it cannot be used.
        OSError: it cannot be read.
    """
    from ast_jax.audio.decode import read_recording

    extractor = classifier.feature_extractor
    return read_recording(
        read_stdin() if file == STDIN else file,
        extractor.sampling_rate,
        max_samples=extractor.max_samples,
        scale_loud=scale_loud,
    )


def complain_about(file: str, error: Exception) -> int:
    """Prints why a sound file cannot be used; returns the exit status 1."""
    if isinstance(error, OSError):  # such as of a failing disk
        error = InputError(f"{file}: cannot be read ({error.strerror or error}); restore it")
    # The decoder names the file, the feature extractor does not.
    named = str(error).startswith((one_line(str(Path(file))), quoted(Path(file))))
    return complain(str(error) if named else f"{file}: {error}")


def note_length(file: str, seconds: float | None, used: float, advice: str) -> None:
    """Prints a note about a file that is longer than the model's input, or may be if None."""
    length = "does not say how long it is" if seconds is None else f"lasts {seconds:.1f} s"
    advice = advice.format(seconds=used)
    print_note(f"{file} {length}; the model uses the first {used:.1f} s: {advice}")


def read_stdin() -> bytes:
    """Returns the content of standard input; raises InputError if there is none."""
    from ast_jax.audio.source import read_content

    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("standard input is a terminal; pipe a sound file into it")
    content = read_content(sys.stdin.buffer, "standard input")
    if not content:
        raise InputError("standard input is empty; pipe a sound file into it")
    return content


def read_ahead(read: Callable[[S], T], files: Iterable[S], ahead: int) -> Iterator[T]:
    """Yields `read(file)` for each file in order, from threads that are `ahead` files ahead."""
    remaining = iter(files)
    with ThreadPoolExecutor(CORES) as pool:
        pending = deque(pool.submit(read, file) for file in islice(remaining, ahead))
        while pending:
            yield pending.popleft().result()
            pending.extend(pool.submit(read, file) for file in islice(remaining, 1))
