"""Finds the sound files to classify, and reads them in threads ahead of the model."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ast_jax.cli.arguments import CORES
from ast_jax.cli.command import complain, print_note
from ast_jax.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from ast_jax.inference.classifier import AudioClassifier

T = TypeVar("T")

STDIN = "-"


def find_sounds(folder: str) -> list[str]:
    """Returns the sound files in a folder and its subfolders, in the order of names.

    Prints a note that counts the files with other suffixes. Hidden files are skipped.

    Raises:
        InputError: a folder cannot be read, or there are no sound files.
    """
    from ast_jax.data.sources.manifest_io import describe_skipped, is_sound, walk

    files = [str(path) for path in walk(Path(folder))]
    sounds = [file for file in files if is_sound(file)]
    others = [file for file in files if not is_sound(file)]
    if not sounds:
        raise InputError(f"{folder}: has no sound files; {describe_skipped(others)}")
    if others:
        print_note(f"{folder}: {describe_skipped(others)}")
    return sounds


def read_inputs(
    files: list[str], classifier: "AudioClassifier", ahead: int, unusable: list[str]
) -> "Iterator[tuple[str, np.ndarray]]":
    """Yields each file with the model's input from it.

    Prints a message about a file that cannot be used, and a note about one that is longer than the
    model's input.

    Args:
        files: paths; "-" for a sound file on standard input.
        classifier: computes the inputs.
        ahead: how many files threads are ahead.
        unusable: receives the files that cannot be used.
    """
    from ast_jax.audio.decode import load_audio

    rate = classifier.feature_extractor.sampling_rate

    def read(file: str) -> "tuple[float, np.ndarray] | InputError":
        try:
            waveform = load_audio(_read_stdin() if file == STDIN else file, rate)
            return len(waveform) / rate, classifier.feature_extractor(waveform, rate)[0]
        except InputError as error:
            return error

    for file, result in zip(files, _read_ahead(read, files, ahead), strict=True):
        if isinstance(result, InputError):
            unusable.append(file)
            # The decoder names the file, the feature extractor does not.
            named = str(result).startswith(str(Path(file)))
            complain(str(result) if named else f"{file}: {result}")
            continue
        seconds, inputs = result
        if seconds > 1.05 * classifier.seconds:
            note_length(file, seconds, classifier.seconds)
        yield file, inputs


def note_length(file: str, seconds: float, used: float) -> None:
    """Prints a note about a file that is longer than the model's input."""
    print_note(f"{file} lasts {seconds:.1f} s; the model uses the first {used:.1f} s")


def _read_stdin() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("standard input is a terminal; pipe a sound file into it")
    content = sys.stdin.buffer.read()
    if not content:
        raise InputError("standard input is empty; pipe a sound file into it")
    return content


def _read_ahead(read: Callable[[str], T], files: Iterable[str], ahead: int) -> Iterator[T]:
    """Yields `read(file)` for each file in order, from threads that are `ahead` files ahead."""
    remaining = iter(files)
    with ThreadPoolExecutor(CORES) as pool:
        pending = deque(pool.submit(read, file) for file in islice(remaining, ahead))
        while pending:
            yield pending.popleft().result()
            pending.extend(pool.submit(read, file) for file in islice(remaining, 1))
