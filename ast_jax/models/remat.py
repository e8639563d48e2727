"""Rematerialization: what an encoder layer keeps for the backward pass, and what it recomputes."""

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from ast_jax.errors import InputError

REMAT = ("none", "norms_and_activations", "everything")

# The arrays that "norms_and_activations" keeps beside a layer's input. LayerNorm, GELU, casts and
# the attention weights are recomputed from them; no other product is.
KEPT = ("qkv", "attention_output", "attention_log_sum", "after_attention", "mlp_hidden")


def keep(x: jax.Array, name: str) -> jax.Array:
    """Names an array of `KEPT`."""
    assert name in KEPT, name
    return checkpoint_name(x, name)


def rematerialize(layer: Callable, remat: str) -> Callable:
    """Returns the layer with a policy for its backward pass.

    Args:
        layer: a function of arrays.
        remat: "none" keeps every intermediate array that a gradient needs; "norms_and_activations"
            keeps those of `KEPT`, a quarter of them; "everything" keeps the layer's input alone
            and runs the layer's forward pass again, a third more work.

    Raises:
        InputError: there is no such policy.
    """
    if remat not in REMAT:
        raise InputError(f"remat must be one of {', '.join(REMAT)}, not {remat!r}")
    if remat == "none":
        return layer
    policy = _save_kept if remat == "norms_and_activations" else None
    # prevent_cse keeps XLA from merging the two computations. The loop over layers does that.
    return jax.checkpoint(layer, policy=policy, prevent_cse=False)


_save_names = jax.checkpoint_policies.save_only_these_names(*KEPT)


def _save_kept(primitive: Any, *arguments: Any, **params: Any) -> Any:
    """A `jax.checkpoint` policy: saves the arrays of `KEPT`, and both results of cuDNN's attention.

    Names cannot be given to the latter's log sums, which are made inside `jax.nn`.
    """
    if primitive.name.startswith("dot_product_attention_fwd"):
        return True
    return _save_names(primitive, *arguments, **params)
