"""The loop over encoder layers, and what each saves or recomputes for the backward pass."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ast_jax.errors import InputError

REMAT = ("none", "norms_and_activations", "everything")

# The arrays that "norms_and_activations" saves beside a layer's input. LayerNorm, GELU, casts and
# the attention weights are recomputed from them; no other product is.
SAVED_NAMES = (
    "norm_statistics",
    "qkv",
    "attention_output",
    "attention_log_sum",
    "after_attention",
    "mlp_hidden",
)


def name_residual(x: jax.Array, name: str) -> jax.Array:
    """Names an array of `SAVED_NAMES`."""
    assert name in SAVED_NAMES, name
    return checkpoint_name(x, name)


def rematerialize(layer: Callable, remat: str) -> Callable:
    """Returns the layer with a policy for its backward pass.

    Args:
        layer: a function of arrays.
        remat: "none" saves every intermediate array that a gradient needs; "norms_and_activations"
            saves those of `SAVED_NAMES`, about two thirds of the bytes; "everything" saves the
            layer's input alone and runs the layer's forward pass again, a third more work.

    Raises:
        InputError: there is no such policy.
    """
    if remat not in REMAT:
        raise InputError(f"remat must be one of {', '.join(REMAT)}, not {remat!r}")
    if remat == "none":
        return layer
    policy = _save_residuals if remat == "norms_and_activations" else None
    # prevent_cse keeps XLA from merging the two computations. The loop over layers does that.
    return jax.checkpoint(layer, policy=policy, prevent_cse=False)


_save_names = jax.checkpoint_policies.save_only_these_names(*SAVED_NAMES)


def _save_residuals(primitive: Any, *arguments: Any, **params: Any) -> Any:
    """Saves `SAVED_NAMES` and both results of cuDNN's attention (a checkpoint policy).

    Names cannot be given to the latter's log sums, which are made inside `jax.nn`.
    """
    if primitive.name.startswith("dot_product_attention_fwd"):
        return True
    return _save_names(primitive, *arguments, **params)


def scan_all_but_last(
    layer: Callable, x: jax.Array, stacked: Any, unroll: bool = False
) -> jax.Array:
    """Applies a layer once for each of a stack of parameters but the last.

    Slicing off the last layer's parameters copies those of all others: 300 MB of base384, and 5 to
    9 % of the time of one clip on a CPU. So they are indexed in each iteration, except where
    gradients are taken: the gradient of an index is an array of the whole stack.

    Args:
        layer: a function of `x` and one layer's parameters.
        x: the first layer's input.
        stacked: a tree of parameters with a leading axis of layers.
        unroll: whether to unroll the loop where gradients are taken.
    """

    def sliced(x: jax.Array, stacked: Any) -> jax.Array:
        below = jax.tree.map(lambda p: p[:-1], stacked)

        def step(x: jax.Array, params: Any) -> tuple[jax.Array, None]:
            return layer(x, params), None

        return jax.lax.scan(step, x, below, unroll=unroll)[0]

    @jax.custom_vjp
    def indexed(x: jax.Array, stacked: Any) -> jax.Array:
        def step(x: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            return layer(x, jax.tree.map(lambda p: p[i], stacked)), None

        num_layers = len(jax.tree.leaves(stacked)[0])
        return jax.lax.scan(step, x, jnp.arange(num_layers - 1))[0]

    indexed.defvjp(partial(jax.vjp, sliced), lambda vjp, dy: vjp(dy))
    return indexed(x, stacked)
