"""The layers that attention and MLP are made of, initialised as the original's."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ast_jax.models.config import ASTConfig
from ast_jax.models.int8 import Int8Linear

ArrayFn = Callable[[jax.Array], jax.Array]


def linear(
    config: ASTConfig, inputs: int, outputs: int, rngs: nnx.Rngs, use_bias: bool = True
) -> nnx.Linear | Int8Linear:
    """An encoder's linear layer: normal weights, zero bias; without values where dtype is int8.

    timm's trunc_normal_(std=.02) cuts at ±2, a hundred deviations out: a plain normal.
    """
    if config.dtype == "int8":
        return Int8Linear(inputs, outputs, use_bias)
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=use_bias,
        kernel_init=nnx.initializers.normal(config.initializer_range),
        dtype=jnp.dtype(config.dtype),
        dot_general=_dot_general,
        rngs=rngs,
    )


def _dot_general(x: jax.Array, kernel: jax.Array, axes: Any, **options: Any) -> jax.Array:
    """`jax.lax.dot_general` whose sums are float32 and then rounded to x's dtype.

    Others do so unasked. XLA's CPU compiler has to be asked, or some of its versions (that of jax
    0.10) widen bfloat16 to float32 and multiply that, in three times the time. The products of the
    backward pass are of float32 and bfloat16 then, on a CPU.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.dot_general(x, kernel, axes, **options)
    sums = jax.lax.dot_general(x, kernel, axes, **options, preferred_element_type=jnp.float32)
    return sums.astype(x.dtype)


def linear_of(cheap: ArrayFn, layer: ArrayFn) -> ArrayFn:
    """`layer` of `cheap` of its argument, of which training keeps the argument alone.

    A norm and a GELU make several float32 arrays that the backward pass needs, three times what
    all else of a layer keeps; it computes them anew instead. The product is not repeated.
    """

    # Nothing need keep the two computations apart: the layers' loop does, and of the last layer
    # the second follows the first at once.
    @partial(jax.checkpoint, prevent_cse=False)
    def apply(x: jax.Array) -> jax.Array:
        return layer(cheap(x))

    return apply


def layer_norm(width: int, epsilon: float, dtype: str, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """A layer norm with PyTorch's two-pass variance; mean and variance are float32."""
    return nnx.LayerNorm(
        width, epsilon=epsilon, use_fast_variance=False, dtype=jnp.dtype(dtype), rngs=rngs
    )
