"""Structured Patchout: training on some of the patches (Koutini et al., Interspeech 2022)."""

import jax
import jax.numpy as jnp


def sample_patchout(key: jax.Array, grid: tuple[int, int], rows: int, columns: int) -> jax.Array:
    """Which patches of one clip stay when whole rows and columns are left out at random.

    Args:
        key: of the draw.
        grid: patches along frequency and time.
        rows: how many of the former are left out, over all of the clip's time.
        columns: how many of the latter are left out, over all frequencies.

    Returns:
        int32 ((grid[0] - rows) · (grid[1] - columns),): their places in the model's order, rising.
    """
    row_key, column_key = jax.random.split(key)
    kept_rows = _kept(row_key, grid[0], rows)
    kept_columns = _kept(column_key, grid[1], columns)
    return (kept_rows[:, None] * grid[1] + kept_columns).reshape(-1)


def _kept(key: jax.Array, total: int, dropped: int) -> jax.Array:
    return jnp.sort(jax.random.permutation(key, total)[: total - dropped])
