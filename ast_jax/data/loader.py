"""Makes batches ahead of the training: with tf.data in this process, or in worker processes."""

import importlib.util
import os
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from ast_jax.data.batches import Batch
from ast_jax.data.workers import MakeBatch, make_in_processes

AHEAD = 2  # batches made in advance, as many as tf.data prefetches


def stream(make_batch: MakeBatch, numbers: range, workers: int = 0) -> Generator[Batch, None, None]:
    """Yields the batches of `numbers` in order, made while the caller uses earlier ones.

    Args:
        make_batch: see `make_in_processes`; threads call it with a number alone.
        numbers: the batches to make.
        workers: the number of processes; 0 uses tf.data's threads in this process, which compete
            for the GIL with a caller that is busy in Python. Without TensorFlow, Python's threads
            make them.
    """
    if workers:
        return make_in_processes(make_batch, numbers, workers)
    if importlib.util.find_spec("tensorflow") is None:
        return _make_in_threads(make_batch, numbers)
    return _make_with_tf_data(make_batch, numbers)


def _make_in_threads(make_batch: MakeBatch, numbers: range) -> Generator[Batch, None, None]:
    ahead: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor()
    try:
        for number in numbers:
            ahead.append(pool.submit(make_batch, number))
            if len(ahead) > AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _make_with_tf_data(make_batch: MakeBatch, numbers: range) -> Generator[Batch, None, None]:
    if not numbers:
        return
    tf = import_tensorflow()

    # tf.data needs the shapes and dtypes of a batch in advance.
    first = make_batch(numbers[0])
    yield first
    names = list(first)
    failed: dict[int, Exception] = {}

    def make(number: np.ndarray) -> list[np.ndarray]:
        try:
            batch = make_batch(int(number))
        except Exception as error:  # raised below, as TensorFlow would print a traceback
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
