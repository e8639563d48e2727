"""Batches of model inputs: a tf.data pipeline around the NumPy frontend."""

import os
from collections.abc import Iterator

import numpy as np

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.data.clips import Clips
from ast_jax.data.order import batch_indices

Batch = dict[str, np.ndarray]


def train_batches(
    clips: Clips,
    extractor: ASTFeatureExtractor,
    *,
    seed: int,
    first_step: int,
    last_step: int,
    batch_size: int,
) -> Iterator[Batch]:
    """Batches of the training steps [first_step, last_step).

    What a step's batch holds depends on (seed, step) alone. Each batch has `input_values`
    (batch, max_length, num_mel_bins) and `targets` (batch, classes), both float32.
    """
    steps = batch_indices(seed, first_step, last_step, len(clips.waveforms), batch_size)
    for inputs, indices in _inputs(clips, extractor, steps.reshape(-1), batch_size):
        yield {"input_values": inputs, "targets": clips.targets[indices]}


def evaluation_batches(
    clips: Clips, extractor: ASTFeatureExtractor, batch_size: int
) -> Iterator[Batch]:
    """Every clip once, in order.

    The last batch is filled up with the first clip; `mask` (batch,) is 0 for those.
    """
    count = len(clips.waveforms)
    indices = np.arange(-(-count // batch_size) * batch_size)
    mask = (indices < count).astype(np.float32)
    indices = np.where(indices < count, indices, 0)
    masks = iter(mask.reshape(-1, batch_size))
    for inputs, rows in _inputs(clips, extractor, indices, batch_size):
        yield {"input_values": inputs, "targets": clips.targets[rows], "mask": next(masks)}


def _inputs(
    clips: Clips, extractor: ASTFeatureExtractor, indices: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(input values, indices) batch by batch, computed ahead on all cores."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it speaks up, and no TF op computes here
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's

    def features(index: np.ndarray) -> np.ndarray:
        return extractor(clips.waveforms[int(index)], extractor.sampling_rate)[0]

    shape = (extractor.max_length, extractor.num_mel_bins)

    def load(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        inputs = tf.numpy_function(features, [index], tf.float32, stateful=False)
        return tf.ensure_shape(inputs, shape), index

    dataset = tf.data.Dataset.from_tensor_slices(indices)
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(batch_size, drop_remainder=True).prefetch(2)
    yield from dataset.as_numpy_iterator()
