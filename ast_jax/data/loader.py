"""Batches ahead of time: by tf.data in this process, or by processes of their own."""

import os
from collections.abc import Generator
from typing import Any

import numpy as np

from ast_jax.data.batches import Batch
from ast_jax.data.workers import MakeBatch, from_workers


def stream(make_batch: MakeBatch, numbers: range, workers: int = 0) -> Generator[Batch, None, None]:
    """The batches of `numbers` in order, made while the caller works on those before.

    Args:
        make_batch: see `from_workers`; threads call it with a number alone.
        numbers: those wanted.
        workers: how many processes make them; 0 for threads of this one. Python runs one of a
            process's threads at a time: a caller that is busy in Python itself wants workers.
    """
    if workers:
        return from_workers(make_batch, numbers, workers)
    return _from_threads(make_batch, numbers)


def _from_threads(make_batch: MakeBatch, numbers: range) -> Generator[Batch, None, None]:
    if not numbers:
        return
    tf = import_tensorflow()

    # The first tells what a batch looks like, which tf.data wants to know beforehand.
    first = make_batch(numbers[0])
    yield first
    names = list(first)
    failed: dict[int, Exception] = {}

    def make(number: np.ndarray) -> list[np.ndarray]:
        try:
            batch = make_batch(int(number))
        except Exception as error:  # raised below; TensorFlow would print tracebacks of its own
            failed[int(number)] = error
            batch = first
        return [batch[name] for name in names]

    def load(number: Any) -> dict[str, Any]:
        types = [tf.as_dtype(first[name].dtype) for name in names]
        arrays = tf.numpy_function(make, [number], types, stateful=False)
        return {
            name: tf.ensure_shape(array, first[name].shape)
            for name, array in zip(names, arrays, strict=True)
        }

    rest = numbers[1:]
    dataset = tf.data.Dataset.range(rest.start, rest.stop, rest.step)
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
    for number, batch in zip(rest, dataset.as_numpy_iterator(), strict=True):
        if number in failed:
            raise failed[number]
        yield batch


def import_tensorflow() -> Any:
    """Imports TensorFlow for tf.data alone, and keeps it off the accelerator, which is JAX's."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # which logs to stderr
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf
