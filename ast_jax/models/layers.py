"""The layers that attention and MLP are made of, initialised as the original's."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint

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
    """`jax.lax.dot_general` of two matrices, whose result in bfloat16 on a CPU is float32."""
    if jax.default_backend() == "cpu" and x.dtype == jnp.bfloat16:
        return _half_product(x, kernel)
    return jax.lax.dot_general(x, kernel, axes, **options)


@jax.custom_vjp
def _half_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """(tokens, inputs) · (inputs, outputs) in bfloat16 → float32 (tokens, outputs).

    XLA's CPU compiler has to be asked for float32, or some of its versions (that of jax 0.10) widen
    what they multiply, in three times the time. And what it is asked for stays as it is, for then
    the bias and its gradient are sums of float32: of bfloat16 they take as long as a product. It
    can be differentiated backwards, not forwards (`jax.jvp`).
    """
    return jnp.dot(x, kernel, preferred_element_type=jnp.float32)


def _half_product_and_kept(
    x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _half_product(x, kernel), (x, kernel)


def _half_product_backward(
    kept: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The gradients of both, of products in bfloat16 as on accelerators."""
    x, kernel = kept
    dy = dy.astype(x.dtype)
    by_columns = (((1,), (1,)), ((), ()))
    dx = jax.lax.dot_general(dy, kernel, by_columns, preferred_element_type=jnp.float32)
    # Of the tokens' two matrices the narrower is turned; the wide one may be a GELU's, which the
    # compiler would compute column by column then.
    if dy.shape[1] < x.shape[1]:
        d_kernel = _by_rows(jnp.dot(_turned_in_memory(dy), x, preferred_element_type=jnp.float32))
        # Behind a barrier, or one thread would turn it while it stores it among the layers'.
        d_kernel = jax.lax.optimization_barrier(_turned_in_memory(d_kernel.astype(kernel.dtype)))
    else:
        d_kernel = jnp.dot(_turned_in_memory(x), dy, preferred_element_type=jnp.float32)
    return dx.astype(x.dtype), d_kernel.astype(kernel.dtype)


def _turned_in_memory(x: jax.Array) -> jax.Array:
    """(a, b) → (b, a), moved in memory: of rows by columns alone a product is quick."""
    return _by_rows(x.T)


def _by_rows(x: jax.Array) -> jax.Array:
    """The matrix, which is to lie in memory row by row."""
    return with_layout_constraint(x, Layout((0, 1)))


_half_product.defvjp(_half_product_and_kept, _half_product_backward)


def linear_of(cheap: ArrayFn, layer: ArrayFn) -> ArrayFn:
    """`layer` of `cheap` of its argument, of which training keeps the argument alone.

    A norm and a GELU make several float32 arrays that the backward pass needs, three times what
    all else of a layer keeps; it computes them anew instead. The product is not repeated.
    """

    # Nothing need keep the two computations apart: the layers' loop does, and of the last layer
    # the second follows the first at once. Without the loop, XLA may make one of both.
    @partial(jax.checkpoint, prevent_cse=False)
    def apply(x: jax.Array) -> jax.Array:
        return layer(cheap(x))

    return apply


def layer_norm(width: int, epsilon: float, dtype: str, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """A layer norm with PyTorch's two-pass variance; mean and variance are float32."""
    return nnx.LayerNorm(
        width, epsilon=epsilon, use_fast_variance=False, dtype=jnp.dtype(dtype), rngs=rngs
    )
