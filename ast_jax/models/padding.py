"""Padding of clips shorter than the model's input: tokens in an order that has it last.

Attention does not depend on the order of its keys. With the tokens of padding behind the others,
each kernel needs one number a clip to leave them out: how many of the first tokens to attend to.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ast_jax.errors import InputError
from ast_jax.models.config import NUM_PREFIX_TOKENS

NumTokens = int | Int[Array, " batch"]  # the first tokens that are attended to, of all or each clip


def real_columns(
    num_frames: Int[Array, " batch"], time_stride: int, columns: int
) -> Int[Array, " batch"]:
    """Returns how many of the first columns of patches have a frame that is not padding.

    Args:
        num_frames: frames of each clip before padding.
        time_stride: frames from one column to the next.
        columns: of the input.

    Returns:
        From 1 to `columns`, for each clip.
    """
    return jnp.clip(-(-num_frames // time_stride), 1, columns)  # a sum might overflow


def check_num_frames(num_frames: Any, batch: int) -> None:
    """Raises `InputError` unless there is a whole number of frames for each clip of a batch."""
    shape, dtype = getattr(num_frames, "shape", None), str(getattr(num_frames, "dtype", None))
    if shape != (batch,) or "int" not in dtype:
        raise InputError(
            f"num_frames, a {type(num_frames).__name__}, has shape {shape} and dtype {dtype}; give "
            f"an array of integers ({batch},), the frames of each clip before padding"
        )


def time_major(x: Float[Array, "*shape"], grid: tuple[int, int], axis: int = 1) -> jax.Array:
    """Returns frequency-major tokens in time-major order: all patches of a column, then the next.

    Args:
        x: an array with an axis of tokens; those before the patches stay there.
        grid: the number of patches along frequency and time.
        axis: of the tokens.
    """
    return _transpose_patches(x, grid[0], axis)


def frequency_major(x: Float[Array, "*shape"], grid: tuple[int, int], axis: int = 1) -> jax.Array:
    """Reverses `time_major`."""
    return _transpose_patches(x, grid[1], axis)


def padding_last(
    keep_indices: Int[Array, "batch kept"], real: Int[Array, " batch"], columns: int
) -> tuple[Int[Array, "batch kept"], Int[Array, " batch"]]:
    """Returns the patches to use with those of padding last, and the number of the others.

    Args:
        keep_indices: patches of each clip, in frequency-major order, counted from 0.
        real: the columns of each clip that are not padding.
        columns: of the grid of patches.
    """
    is_padding: Bool[Array, "batch kept"] = keep_indices % columns >= real[:, None]
    order = jnp.argsort(is_padding, axis=1)  # stable
    return jnp.take_along_axis(keep_indices, order, axis=1), (~is_padding).sum(axis=1)


def _transpose_patches(x: jax.Array, rows: int, axis: int) -> jax.Array:
    """Transposes the grid of patches, (rows, columns) → (columns, rows), behind the prefix."""
    prefix, patches = jnp.split(x, [NUM_PREFIX_TOKENS], axis)
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    patches = jnp.swapaxes(patches.reshape(*before, rows, -1, *after), axis, axis + 1)
    return jnp.concatenate([prefix, patches.reshape(*before, -1, *after)], axis)
