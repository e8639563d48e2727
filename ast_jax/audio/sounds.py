"""Reads the forms of sound that a classifier takes: files, their content, arrays and dicts."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from ast_jax.audio.waveform import check_sampling_rate, to_array, to_waveform
from ast_jax.errors import InputError, quoted

Bytes = bytes | bytearray | memoryview

FORMS = (
    "give a path, an array with sampling_rate, {'array': …, 'sampling_rate': …}, the bytes of a "
    "sound file or a file object, or a list of these"
)


def is_batch(sound: Any) -> bool:
    """Returns whether the input is a list or another iterable of sounds, and not one sound."""
    is_one = isinstance(sound, str | os.PathLike | Bytes | Mapping)
    return isinstance(sound, Iterable) and not (is_one or _is_array(sound) or _is_file(sound))


def read_sound(
    sound: Any, sampling_rate: int | None, new_rate: int, max_samples: int | None = None
) -> Float32[np.ndarray, " samples"]:
    """Returns one sound as a waveform of the model's sampling rate.

    Args:
        sound: see `AudioClassifier.__call__`, without lists.
        sampling_rate: of arrays without their own, in Hz.
        new_rate: of the result, in Hz.
        max_samples: of a file, no more than the beginning that gives so many samples is read.

    Raises:
        InputError: the sound cannot be used.
    """
    sound, sampling_rate = _unpack(sound, sampling_rate)
    if _is_sound_file(sound):
        # Imported here, as classifying waveforms does not need the libraries that read files.
        from ast_jax.audio.decode import load_audio

        return load_audio(sound, new_rate, max_samples=max_samples)
    return _read_array(sound, sampling_rate, new_rate)


def read_sound_blocks(
    sound: Any, sampling_rate: int | None, new_rate: int
) -> Iterator[Float32[np.ndarray, " samples"]]:
    """Yields one sound as a waveform in blocks, a file as it is read; of any length.

    Arguments and errors are those of `read_sound`. What is unusual in a file causes a warning.
    """
    sound, sampling_rate = _unpack(sound, sampling_rate)
    if not _is_sound_file(sound):
        yield _read_array(sound, sampling_rate, new_rate)
        return
    from ast_jax.audio.decode import open_recording

    with open_recording(sound, new_rate) as stream:
        yield from stream
    for note in filter(None, (stream.note, stream.level_note)):
        warnings.warn(note, stacklevel=2)


@contextmanager
def naming_sound(sound: Any) -> Iterator[None]:
    """Adds the path of a sound, if it has one, to errors that do not name it."""
    try:
        yield
    except InputError as error:
        name = name_of(sound)
        if not name or name in str(error) or quoted(name) in str(error):
            raise
        raise InputError(f"{name}: {error}") from error


def _unpack(sound: Any, sampling_rate: int | None) -> tuple[Any, int | None]:
    """Returns the waveform or file in a dict or decoder, and the waveform's sampling rate."""
    if hasattr(sound, "get_all_samples"):  # torchcodec's decoder, which `datasets` returns
        samples = sound.get_all_samples()  # (channels, samples)
        return to_array(samples.data).mean(axis=0), samples.sample_rate
    return (
        _read_dict(sound, sampling_rate) if isinstance(sound, Mapping) else (sound, sampling_rate)
    )


def _is_sound_file(sound: Any) -> bool:
    return isinstance(sound, str | os.PathLike | Bytes) or _is_file(sound)


def _read_array(
    sound: Any, sampling_rate: int | None, new_rate: int
) -> Float32[np.ndarray, " samples"]:
    """Returns an array or a tensor as a waveform of another rate."""
    if isinstance(sound, int | float | complex | np.generic):  # of a list of samples
        raise InputError(
            f"the number {sound} is not a sound: give a waveform as an array, "
            f"np.asarray(waveform), with sampling_rate"
        )
    if not _is_array(sound):
        raise InputError(f"an input of type {type(sound).__name__} is not a sound: {FORMS}")
    rate = check_sampling_rate(sampling_rate)
    array = to_array(sound)
    if array.ndim == 2 and min(array.shape) > 2:
        raise InputError(
            f"the waveforms have shape {array.shape}: give several as a list, list(waveforms)"
        )
    waveform = to_waveform(array)
    if rate == new_rate:
        return waveform
    from ast_jax.audio.decode import resample

    return resample(waveform, rate, new_rate)


def name_of(sound: Any) -> str:
    """Returns the path of a sound for messages, '' if it has none."""
    if isinstance(sound, Mapping):
        sound = sound.get("path") or ""
    elif _is_file(sound):
        sound = getattr(sound, "name", "")
    is_path = isinstance(sound, str | os.PathLike) and sound
    return str(Path(os.fsdecode(sound))) if is_path else ""


def _read_dict(sound: Mapping, sampling_rate: int | None) -> tuple[Any, int | None]:
    """Returns a dict's waveform and sampling rate, or the content or path of its file."""
    entries = {key: value for key, value in sound.items() if value is not None}
    arrays = [entries[key] for key in ("array", "raw") if key in entries]
    if len(arrays) == 1:
        return to_array(arrays[0]), entries.get("sampling_rate", sampling_rate)
    for key in ("bytes", "path"):
        if key in entries and not arrays:
            return entries[key], None
    row = "; of a row of a data set, give row['audio']" if "audio" in entries else ""
    raise InputError(
        f"the dict has the keys {', '.join(map(repr, sound)) or '(none)'}: give one of 'array' and "
        f"'raw' with 'sampling_rate', or 'bytes' or 'path'{row}"
    )


def _is_array(sound: Any) -> bool:
    return hasattr(sound, "__array__") or hasattr(sound, "detach")


def _is_file(sound: Any) -> bool:
    return hasattr(sound, "read") and not isinstance(sound, os.PathLike)
