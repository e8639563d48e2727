"""Reads the forms of sound that a classifier takes: files, their content, arrays and dicts."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from ast_jax.audio.waveform import check_sampling_rate, to_array, to_waveform
from ast_jax.errors import InputError

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
    if hasattr(sound, "get_all_samples"):  # torchcodec's decoder, which `datasets` returns
        samples = sound.get_all_samples()  # (channels, samples)
        sound, sampling_rate = to_array(samples.data).mean(axis=0), samples.sample_rate
    if isinstance(sound, Mapping):
        sound, sampling_rate = _read_dict(sound, sampling_rate)
    if isinstance(sound, str | os.PathLike | Bytes) or _is_file(sound):
        # Imported here, as classifying waveforms does not need the libraries that read files.
        from ast_jax.audio.decode import load_audio

        return load_audio(sound, new_rate, max_samples=max_samples)
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
