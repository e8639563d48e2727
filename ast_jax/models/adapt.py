"""Trained parameters for another input size or other classes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from ast_jax.errors import InputError
from ast_jax.models.ast import Classifier, param_shapes
from ast_jax.models.config import ASTConfig


def adapt_params(
    params: dict[str, Any], old: ASTConfig, new: ASTConfig, seed: int = 0
) -> dict[str, Any]:
    """Fits parameters of configuration `old` to `new`.

    Another grid of patches (strides, `max_length`, `num_mel_bins`) resizes the positional
    embedding as the original does. Other classes (another number, or other names where `old`
    had names), or parameters without a classification head, get a head initialised from `seed`.

    Raises:
        InputError: `new` differs in more than that; the message names the first parameter.
    """
    params = dict(params)
    if old.grid != new.grid:
        embeddings = dict(params["ast"]["embeddings"])
        embeddings["position_embeddings"] = resize_position_embeddings(
            embeddings["position_embeddings"], old.grid, new.grid
        )
        params["ast"] = params["ast"] | {"embeddings": embeddings}
    renamed = old.id2label is not None and old.id2label != new.id2label
    if "classifier" not in params or renamed or old.num_labels != new.num_labels:
        head = Classifier(new, rngs=nnx.Rngs(seed))
        params["classifier"] = nnx.to_pure_dict(nnx.split(head)[1])
    wanted = traverse_util.flatten_dict(param_shapes(new), sep="/")
    for name, array in traverse_util.flatten_dict(params, sep="/").items():
        if name not in wanted or array.shape != wanted[name].shape:
            raise InputError(
                f"parameter {name} of shape {array.shape} cannot become "
                f"{wanted[name].shape if name in wanted else 'absent'}: a trained model's width, "
                f"depth and patch size stay as they are"
            )
    return params


def resize_position_embeddings(
    embeddings: jax.Array | np.ndarray, old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> jax.Array:
    """Adapts (1, 2 + f·t, hidden) from one (frequency, time) grid to another.

    As the original's `ASTModel.__init__` (src/models/ast_models.py): an axis that shrinks is
    cut around its middle, one that grows is interpolated linearly with half-pixel centres and
    no antialiasing; time first, then frequency. The two leading tokens keep theirs.
    """
    tokens, patches = embeddings[:, :2], embeddings[:, 2:]
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
