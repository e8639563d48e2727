"""Batches of model inputs, and checks of what the model makes of them."""

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

import numpy as np

from ast_jax.errors import InputError
from ast_jax.fields import Range, check_value


def padded_batches(
    inputs: Iterator[np.ndarray], batch_size: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields float32 batches of one size, and the number of inputs in each; the rest are zeros.

    So the model is compiled for one shape. Inputs are read as the batches are.
    """
    size = 0
    while batch := list(islice(inputs, batch_size)):
        size = size or len(batch)  # all inputs may be fewer than a batch
        padded = np.zeros((size, *batch[0].shape), np.float32)
        padded[: len(batch)] = batch
        yield padded, len(batch)


def check_output(output: np.ndarray) -> None:
    """Raises InputError if an output of the model is not finite."""
    if not np.isfinite(output).all():
        raise InputError(
            "the model's output is not finite: parameters are NaN, or so large that it "
            "overflows; use another checkpoint, or correct the mean and std of its extractor"
        )


def check_count(name: str, value: Any) -> None:
    """Raises InputError unless an argument is a whole number of at least 1."""
    plain = value.item() if isinstance(value, np.integer) else value
    check_value(name, plain, Annotated[int, Range(1)])
