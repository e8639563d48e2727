"""Exchanges values between the processes of a pod.

Every function is collective: each process must call it, at the same point of its work.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from ast_jax.errors import InputError

Result = TypeVar("Result")


def call_on_first(function: Callable[[], Result]) -> Result:
    """Calls a function on the first process and returns its result on all.

    Args:
        function: returns what JSON can hold.

    Raises:
        InputError: on every process, if the function raises it.
    """
    if jax.process_count() == 1:
        return function()
    result, failure = None, None
    if jax.process_index() == 0:
        try:
            result = function()
        except InputError as error:
            failure = str(error)
    result, failure = json.loads(_broadcast_text(json.dumps([result, failure])))
    if failure is not None:
        raise InputError(failure)
    return result


def gather_texts(text: str) -> list[str]:
    """Returns the texts of all processes."""
    encoded = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(encoded))).ravel()
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(encoded)] = encoded
    rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    return [row[:n].tobytes().decode() for row, n in zip(rows, lengths, strict=True)]


def broadcast_arrays(tree: Any) -> Any:
    """Returns the first process's arrays, bit by bit, on all.

    Args:
        tree: of arrays of 32-bit numbers, which on other processes give only the shapes.
    """
    if jax.process_count() == 1:
        return tree
    first = jax.process_index() == 0

    def as_bits(array: Any) -> np.ndarray:
        host = np.asarray(array) if first else np.zeros(array.shape, array.dtype)
        return host.reshape(-1).view(np.uint32)  # as numbers, -0 would become 0

    def as_numbers(array: Any, bits: Any) -> np.ndarray:
        return np.asarray(bits).view(array.dtype).reshape(array.shape)

    received = multihost_utils.broadcast_one_to_all(jax.tree.map(as_bits, tree))
    return jax.tree.map(as_numbers, tree, received)


def _broadcast_text(text: str) -> str:
    """Returns the first process's text on all."""
    encoded = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.array(len(encoded))))
    if jax.process_index():
        encoded = np.zeros(length, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(encoded)).tobytes().decode()
