"""The layers that attention and MLP are made of, initialised as the original's."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from ast_jax.models.config import ASTConfig


def linear(
    config: ASTConfig, inputs: int, outputs: int, rngs: nnx.Rngs, use_bias: bool = True
) -> nnx.Linear:
    """An encoder's linear layer: normal weights, zero bias.

    timm's trunc_normal_(std=.02) cuts at ±2, a hundred deviations out: a plain normal.
    """
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=use_bias,
        kernel_init=nnx.initializers.normal(config.initializer_range),
        dtype=jnp.dtype(config.dtype),
        rngs=rngs,
    )


def linear_of(cheap: Callable[[jax.Array], jax.Array], layer: nnx.Linear) -> Callable:
    """`layer` of `cheap` of its argument, of which training keeps the argument alone.

    A norm and a GELU make several arrays that the backward pass needs, in float32; to compute
    them anew takes a GPU less time than to write and read them. The product is not repeated.
    """

    @partial(jax.checkpoint, prevent_cse=False)  # layers run in a loop, which keeps them apart
    def apply(x: jax.Array) -> jax.Array:
        return layer(cheap(x))

    return apply


def layer_norm(width: int, epsilon: float, dtype: str, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """A layer norm with PyTorch's two-pass variance; mean and variance are float32."""
    return nnx.LayerNorm(
        width, epsilon=epsilon, use_fast_variance=False, dtype=jnp.dtype(dtype), rngs=rngs
    )
