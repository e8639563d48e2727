"""Batches of model inputs: a tf.data pipeline around the NumPy frontend."""

import os
from collections.abc import Callable, Iterator

import numpy as np

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.data.clips import Clips
from ast_jax.data.mixup import draw, mix
from ast_jax.data.order import batch_indices

Batch = dict[str, np.ndarray]
Example = tuple[np.ndarray, np.ndarray]  # waveform and target


def train_batches(
    clips: Clips,
    extractor: ASTFeatureExtractor,
    *,
    seed: int,
    first_step: int,
    last_step: int,
    batch_size: int,
    mixup: float = 0.0,
) -> Iterator[Batch]:
    """Batches of the training steps [first_step, last_step).

    What a step's batch holds depends on (seed, step) alone. Each batch has `input_values`
    (batch, max_length, num_mel_bins) and `targets` (batch, classes), both float32.

    Args:
        clips: those to train on.
        extractor: waveforms to model inputs.
        seed: of the order and of mixup.
        first_step: where to begin, counted from the start of the training.
        last_step: where to end.
        batch_size: clips a step.
        mixup: the share of clips that are mixed with another.
    """
    count = len(clips.waveforms)
    order = batch_indices(seed, first_step, last_step, count, batch_size).reshape(-1)
    start = first_step * batch_size

    def example(number: int) -> Example:
        index = order[number]
        waveform, target = clips.waveforms[index], clips.targets[index]
        partner, share = draw(seed, start + number, mixup, count)
        if partner is None:
            return waveform, target
        mixed = mix(waveform, clips.waveforms[partner], share)
        return mixed, share * target + (1 - share) * clips.targets[partner]

    yield from _batches(example, len(order), extractor, batch_size)


def evaluation_batches(
    clips: Clips, extractor: ASTFeatureExtractor, batch_size: int
) -> Iterator[Batch]:
    """Every clip once, in order.

    The last batch is filled up with the first clip; `mask` (batch,) is 0 for those.
    """
    count = len(clips.waveforms)
    padded = -(-count // batch_size) * batch_size
    mask = (np.arange(padded) < count).astype(np.float32).reshape(-1, batch_size)

    def example(number: int) -> Example:
        index = number if number < count else 0
        return clips.waveforms[index], clips.targets[index]

    for batch, row in zip(_batches(example, padded, extractor, batch_size), mask, strict=True):
        yield batch | {"mask": row}


def _batches(
    example: Callable[[int], Example], count: int, extractor: ASTFeatureExtractor, batch_size: int
) -> Iterator[Batch]:
    """Batches of examples 0 to `count` - 1, computed ahead on all cores."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it speaks up, and no TF op computes here
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's

    def features(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        waveform, target = example(int(number))
        return extractor(waveform, extractor.sampling_rate)[0], target.astype(np.float32)

    def load(number: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs, targets = tf.numpy_function(
            features, [number], [tf.float32, tf.float32], stateful=False
        )
        inputs = tf.ensure_shape(inputs, (extractor.max_length, extractor.num_mel_bins))
        return {"input_values": inputs, "targets": tf.ensure_shape(targets, (None,))}

    dataset = tf.data.Dataset.range(count)
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(batch_size, drop_remainder=True).prefetch(2)
    yield from dataset.as_numpy_iterator()
