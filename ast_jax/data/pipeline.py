"""Batches ahead of time: by tf.data in this process, or by processes of their own."""

from collections.abc import Generator
from typing import Any

import numpy as np

from ast_jax.data.batches import Batch
from ast_jax.data.workers import MakeBatch, make_in_processes
from ast_jax.tensorflow import import_tensorflow


def stream(make_batch: MakeBatch, numbers: range, workers: int = 0) -> Generator[Batch, None, None]:
    """The batches of `numbers` in order, made while the caller works on those before.

    Args:
        make_batch: see `make_in_processes`; threads call it with a number alone.
        numbers: those wanted.
        workers: how many processes make them; 0 for threads of this one. Python runs one of a
            process's threads at a time: a caller that is busy in Python itself wants workers.
    """
    if workers:
        return make_in_processes(make_batch, numbers, workers)
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
