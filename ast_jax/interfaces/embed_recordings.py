"""Embeddings of whole recordings, however much longer than the model's input."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.audio.kaldi import frame_sizes
from ast_jax.errors import InputError
from ast_jax.inference.classifier import AudioClassifier
from ast_jax.inference.windows import WindowInput, WindowSlicer, slice_sound


def slice_recordings(
    sounds: Iterable[Any],
    sampling_rate: int | None,
    extractor: ASTFeatureExtractor,
    window: int,
    hop: int,
) -> Iterator[tuple[int, WindowInput]]:
    """Yields the windows of several sounds, each with the index of its sound.

    Args:
        sounds: in any form that the classifier takes; read as the windows are.
        sampling_rate: of arrays without their own, in Hz.
        extractor: of the model.
        window: frames of a window.
        hop: frames from the start of a window to that of the next.

    Raises:
        InputError: a sound cannot be used; the message has its index.
    """
    size, shift = frame_sizes(extractor.sampling_rate)
    seconds = (size + (window - 1) * shift) / extractor.sampling_rate
    for i, sound in enumerate(sounds):
        slicer = WindowSlicer(extractor, seconds, hop * shift / extractor.sampling_rate)
        try:
            for each in slice_sound(sound, sampling_rate, slicer):
                yield i, each
        except InputError as error:
            raise InputError(f"sound {i} (from 0): {error}") from error


def embed_recordings(
    classifier: AudioClassifier, sounds: Iterable[Any], sampling_rate: int | None, batch_size: int
) -> Float32[np.ndarray, "recordings hidden"]:
    """Returns one embedding of each sound, of any length.

    A sound that is longer than the model's input is split into windows. Its embedding is the mean
    of theirs ("pooled"), weighted by their lengths, as the last one may be short. A window begins
    where the patches of the one before end: with patches of 16 frames every 10, they reach 1016 of
    1024 frames.

    Args:
        classifier: embeds the windows.
        sounds: in any form that the classifier takes; read as they are embedded.
        sampling_rate: of arrays without their own, in Hz.
        batch_size: the number of windows that the device computes at once.

    Raises:
        InputError: a sound or the batch size cannot be used.
    """
    extractor = classifier.feature_extractor
    hop = reached_frames(classifier)
    _, shift = frame_sizes(extractor.sampling_rate)
    indices: list[int] = []  # the sound of each window
    weights: list[float] = []  # the seconds of it that patches reach

    def read_windows() -> Iterator[np.ndarray]:
        for i, (start, end, input_values) in slice_recordings(
            sounds, sampling_rate, extractor, extractor.max_length, hop
        ):
            indices.append(i)
            weights.append(min(end - start, hop * shift / extractor.sampling_rate))
            yield input_values

    windows = np.array(list(classifier.embed_inputs(read_windows(), batch_size=batch_size)))
    totals = np.bincount(np.array(indices, int), weights)
    embeddings = np.zeros((len(totals), classifier.config.hidden_size))
    for i, weight, embedding in zip(indices, weights, windows, strict=True):
        embeddings[i] += weight / totals[i] * embedding
    return embeddings.astype(np.float32)


def reached_frames(classifier: AudioClassifier) -> int:
    """Returns the number of frames of an input that are in patches."""
    config = classifier.config
    return (config.grid[1] - 1) * config.time_stride + config.patch_size
