"""Structured Patchout: training on some of the patches (Koutini et al., Interspeech 2022)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key


def sample_patchout(
    key: Key[Array, ""],
    grid: tuple[int, int],
    rows: int,
    columns: int,
    real_columns: Int[Array, ""] | None = None,
) -> Int[Array, " kept"]:
    """Samples the patches of one clip that remain when whole rows and columns are dropped.

    Args:
        key: a random key.
        grid: number of patches along frequency and time.
        rows: number of patch rows to drop: some frequencies, over the whole clip.
        columns: number of patch columns to drop: some times, at all frequencies.
        real_columns: how many of the first columns are not padding; the same share of them is
            dropped as of all, rounded down. None for all.

    Returns:
        The model's `keep_indices` of one clip: int32, in ascending order,
        (grid[0] - rows) · (grid[1] - columns) of them.
    """
    row_key, column_key = jax.random.split(key)
    keep_rows = _sample_subset(row_key, grid[0], grid[0] - rows)
    keep_columns = _sample_subset(column_key, grid[1], grid[1] - columns, real_columns)
    return (keep_rows[:, None] * grid[1] + keep_columns).reshape(-1)


def _sample_subset(
    key: jax.Array, total: int, size: int, real: jax.Array | None = None
) -> jax.Array:
    """Samples `size` of the integers below `total`, in ascending order.

    With `real`, `size` / `total` of those below it are sampled, rounded up, and others.
    """
    order = jax.random.permutation(key, total)
    if real is not None:
        is_real = order < real
        kept = -(-real * size // total)
        surplus = is_real & (jnp.cumsum(is_real) > kept)
        # Those to keep, then others, then what is left.
        order = order[jnp.argsort(jnp.where(surplus, 2, jnp.where(is_real, 0, 1)))]
    return jnp.sort(order[:size])
