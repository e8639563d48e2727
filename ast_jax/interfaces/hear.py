"""The interface of HEAR 2021, Holistic Evaluation of Audio Representations.

HEAR's tools take the name of this module and the path of a checkpoint:
`hear-validator ast_jax.interfaces.hear -m checkpoints/audioset`.
"""

from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from ast_jax.audio.kaldi import frame_sizes
from ast_jax.audio.waveform import to_array
from ast_jax.checkpoint.torch_files import import_torch
from ast_jax.columns import Columns
from ast_jax.errors import InputError
from ast_jax.inference.classifier import AudioClassifier, load
from ast_jax.interfaces.embed_recordings import embed_recordings, reached_frames, slice_recordings

BATCH_SIZE = 8  # windows; HEAR passes no size
SAMPLING_RATES = (16000, 22050, 44100, 48000)  # at which HEAR has audio


def load_model(model_file_path: str) -> Any:
    """Loads a checkpoint as HEAR's model.

    Args:
        model_file_path: the path of a checkpoint, see `ast_jax.load`.

    Returns:
        A `torch.nn.Module` without parameters, with the attributes that HEAR reads:
        `sample_rate`, `scene_embedding_size` and `timestamp_embedding_size`. JAX computes on its
        default device, whichever device the module is moved to.

    Raises:
        InputError: the checkpoint cannot be used, or has a sampling rate that HEAR has not; or
            PyTorch is missing.
    """
    torch = import_torch("HEAR")
    classifier = load(model_file_path)
    rate = classifier.feature_extractor.sampling_rate
    if rate not in SAMPLING_RATES:
        raise InputError(
            f"{model_file_path}: the model's sampling rate is {rate} Hz, and HEAR has audio at "
            f"{', '.join(map(str, SAMPLING_RATES))} Hz; use another checkpoint"
        )
    model = torch.nn.Module()
    vars(model).update(
        classifier=classifier,
        sample_rate=rate,
        scene_embedding_size=classifier.config.hidden_size,
        timestamp_embedding_size=classifier.config.hidden_size,
    )
    return model


def get_scene_embeddings(audio: Any, model: Any) -> Any:
    """Returns one embedding of each sound, a float32 tensor (sounds, embedding size).

    It is the mean of the class and the distillation token. Of a sound that is longer than the
    model's input it is the mean over consecutive windows, weighted by their lengths.

    Args:
        audio: a tensor (sounds, samples) in [-1, 1] at the model's rate.
        model: from `load_model`.

    Raises:
        InputError: the audio has another shape, or a sound cannot be used.
    """
    import torch

    embeddings = embed_recordings(
        model.classifier, _waveforms(audio), model.sample_rate, BATCH_SIZE
    )
    return torch.from_numpy(embeddings).to(audio.device)


def get_timestamp_embeddings(audio: Any, model: Any) -> tuple[Any, Any]:
    """Returns the embeddings of the columns of patches, and the times of their centers.

    A column's embedding is the mean of its patches over frequency. Columns are 100 ms apart with
    the usual stride of 10 frames. Sounds that are longer than the model's input are embedded in
    windows, the columns of each following those of the last at the same interval.

    Args:
        audio: a tensor (sounds, samples) in [-1, 1] at the model's rate.
        model: from `load_model`.

    Returns:
        Embeddings, a float32 tensor (sounds, columns, embedding size), and times in ms, a float32
        tensor (sounds, columns). Columns that have no frame of their own of the sound, but only
        padding, are left out.

    Raises:
        InputError: as for `get_scene_embeddings`.
    """
    import torch

    waveforms = _waveforms(audio)
    embeddings = embed_columns(model.classifier, waveforms)
    times = column_times(model.classifier, embeddings.shape[1])
    return (
        torch.from_numpy(embeddings).to(audio.device),
        torch.from_numpy(np.tile(times, (len(waveforms), 1))).to(audio.device),
    )


def _waveforms(audio: Any) -> Shaped[np.ndarray, "sounds samples"]:
    waveforms = to_array(audio)
    if waveforms.ndim != 2:
        raise InputError(f"the audio has shape {waveforms.shape}; give (sounds, samples)")
    return waveforms


def embed_columns(
    classifier: AudioClassifier, waveforms: Shaped[np.ndarray, "sounds samples"]
) -> Float32[np.ndarray, "sounds columns hidden"]:
    """Computes the mean over frequency of the patches of each column."""
    config, extractor = classifier.config, classifier.feature_extractor
    stride, hop = config.time_stride, config.grid[1] * config.time_stride
    # Patches may leave frames between them.
    window = max(reached_frames(classifier), hop)
    windows = slice_recordings(waveforms, extractor.sampling_rate, extractor, window, hop)
    inputs = (window.input_values for _, window in windows)
    patches = classifier.embed_inputs(inputs, "patches", batch_size=BATCH_SIZE)
    columns = np.array([each.mean(axis=0) for each in patches], np.float32)
    # Of the last window, the fewest columns that reach the last frame.
    size, shift = frame_sizes(extractor.sampling_rate)
    frames = 1 + (waveforms.shape[1] - size) // shift
    count = 1 + max(0, -(-(frames - max(config.patch_size, stride)) // stride))
    if not len(waveforms):
        return np.zeros((0, count, config.hidden_size), np.float32)
    return columns.reshape(len(waveforms), -1, config.hidden_size)[:, :count]


def column_times(classifier: AudioClassifier, columns: int) -> Float32[np.ndarray, " columns"]:
    """Returns the centers of columns of patches, in ms from the start of a sound."""
    rate = classifier.feature_extractor.sampling_rate
    grid = Columns.of(classifier.config, rate)
    centers = np.arange(columns) * grid.hop + grid.size / 2
    return (centers * 1000 / rate).astype(np.float32)
