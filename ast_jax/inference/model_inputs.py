"""Computes model inputs from sounds in any form."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.audio.sounds import is_batch, naming_sound, read_sound
from ast_jax.errors import InputError


def model_input(
    sound: Any, sampling_rate: int | None, extractor: ASTFeatureExtractor
) -> Float32[np.ndarray, "max_length mel_bins"]:
    """Returns the model's input for one sound.

    Args:
        sound: in any form that a call of `AudioClassifier` takes.
        sampling_rate: of an array without its own, in Hz.
        extractor: of the model.

    Raises:
        InputError: the sound cannot be used; the message names its path, if it has one.
    """
    inputs = np.empty((extractor.max_length, extractor.num_mel_bins), np.float32)
    with naming_sound(sound):
        waveform = read_sound(sound, sampling_rate, extractor.sampling_rate, extractor.max_samples)
        extractor.fill(inputs, waveform)
    return inputs


def map_sounds(
    compute: Callable[[Iterable[np.ndarray]], Iterator[Any]],
    audio: Any,
    sampling_rate: int | None,
    extractor: ASTFeatureExtractor,
) -> Any:
    """Returns the result of a sound; a list for a list of sounds, an iterator for an iterator.

    Args:
        compute: yields the results of model inputs.
        audio: a sound or several, as for `model_input`.
        sampling_rate: as for `model_input`.
        extractor: of the model.

    Raises:
        InputError: as `model_input`; the message has the sound's index among several.
    """
    if not is_batch(audio):
        return next(compute([model_input(audio, sampling_rate, extractor)]))
    results = compute(_model_inputs(audio, sampling_rate, extractor))
    return results if isinstance(audio, Iterator) else list(results)


def _model_inputs(
    sounds: Iterable[Any], sampling_rate: int | None, extractor: ASTFeatureExtractor
) -> Iterator[np.ndarray]:
    for i, sound in enumerate(sounds):
        try:
            inputs = model_input(sound, sampling_rate, extractor)
        except InputError as error:
            raise InputError(f"input {i} (from 0): {error}") from error
        yield inputs
