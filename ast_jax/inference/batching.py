"""Batches of model inputs, and checks of what the model makes of them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Annotated, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.errors import InputError
from ast_jax.fields import Range, check_value

Key = TypeVar("Key")
Value = TypeVar("Value")
Result = TypeVar("Result")


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


def map_batches(
    compute: Callable[[np.ndarray], jax.Array], inputs: Iterator[np.ndarray], batch_size: int
) -> Iterator[np.ndarray]:
    """Yields the model's output for each input, computed in the batches of `padded_batches`.

    The next batch is read while the device computes.

    Raises:
        InputError: an output is not finite.
    """
    computing: tuple[jax.Array, int] | None = None
    for batch, count in padded_batches(inputs, batch_size):
        started = compute(batch), count
        if computing:
            yield from _checked_rows(*computing)
        computing = started
    if computing:
        yield from _checked_rows(*computing)


def _checked_rows(outputs: jax.Array, count: int) -> Iterator[np.ndarray]:
    for output in np.asarray(outputs)[:count]:
        check_finite(output)
        yield output


def map_values(
    function: Callable[[Iterator[Value]], Iterable[Result]], items: Iterable[tuple[Key, Value]]
) -> Iterator[tuple[Key, Result]]:
    """Yields the key of each item with the result of its value.

    Args:
        function: returns the results of several values in order; may read values ahead.
        items: (key, value) each.
    """
    keys: deque[Key] = deque()  # of the values without results so far

    def values() -> Iterator[Value]:
        for key, value in items:
            keys.append(key)
            yield value

    for result in function(values()):
        yield keys.popleft(), result


def count_frames(
    input_values: Float[Array, "batch frames mel_bins"], extractor: ASTFeatureExtractor
) -> Int[Array, " batch"]:
    """Returns the frames of each clip before padding, which is known by its value.

    A frame of padding has the value 0, before normalization, in all mel bins. No sound has: it
    would need an energy of exactly 1 in each.

    Args:
        input_values: as the extractor returns them.
        extractor: the model's.
    """
    mean, scale = extractor.mean, 1 / (2 * extractor.std)
    if not extractor.do_normalize:
        mean, scale = 0.0, 1.0
    padding = -mean * scale
    # Of rounding, on the host or on the device; in log-mel units, as `scale` may be tiny.
    tolerance = 1e-5 * max(1, abs(mean)) * scale
    is_padding = (jnp.abs(input_values - padding) <= tolerance).all(axis=2)
    frame = jnp.arange(1, input_values.shape[1] + 1)
    return jnp.where(is_padding, 0, frame).max(axis=1)


def check_finite(output: np.ndarray) -> None:
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
