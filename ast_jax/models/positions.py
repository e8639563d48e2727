"""Position embeddings for another grid of patches."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ast_jax.models.config import NUM_PREFIX_TOKENS


def resize_position_embeddings(
    embeddings: Float[Array | np.ndarray, "1 old_tokens hidden"],
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
) -> Float[Array, "1 new_tokens hidden"]:
    """Adapts position embeddings to another number of patches along (frequency, time).

    As the original's `ASTModel.__init__` (src/models/ast_models.py): time first, then frequency,
    an axis that shrinks is center-cropped, and one that grows is interpolated linearly with
    half-pixel centers and no antialiasing. The prefix tokens keep their embeddings.
    """
    tokens, patches = embeddings[:, :NUM_PREFIX_TOKENS], embeddings[:, NUM_PREFIX_TOKENS:]
    grid = jnp.asarray(patches).reshape(*old_grid, -1)
    for axis in (1, 0):
        grid = _resize_axis(grid, axis, new_grid[axis])
    return jnp.concatenate([tokens, grid.reshape(1, new_grid[0] * new_grid[1], -1)], axis=1)


def _resize_axis(grid: jax.Array, axis: int, new: int) -> jax.Array:
    old = grid.shape[axis]
    if new <= old:
        start = old // 2 - new // 2
        return jax.lax.slice_in_dim(grid, start, start + new, axis=axis)
    shape = (*grid.shape[:axis], new, *grid.shape[axis + 1 :])
    return jax.image.resize(grid, shape, "linear", antialias=False)
