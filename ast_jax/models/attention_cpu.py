"""Attention on a CPU: two heads of one clip at a time, so that their scores stay in the cache.

The backward pass is flash attention's (Dao et al. 2022, appendix B): it recomputes the weights from
the logarithm of each row's sum rather than read them from memory. JAX's own would also recompute
the softmax's sum and the product with the values.

XLA:CPU multiplies fastest where both operands are row-major, and reduces along rows slowly. So
operands are transposed before the loop over heads, and the sum of a row of weights is one more
column of their product with the values.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ast_jax.models.remat import name_residual

# Columns of scores are padded to a multiple of this, so that their loops have no remainder:
# 0.9 to 0.95 of the time with jax 0.10, no less with jax 0.12.
LANES = 16


class Residuals(NamedTuple):
    """The arrays that the backward pass needs.

    Attributes:
        query, output: (batch, queries, heads, width).
        key, value: (batch, tokens, heads, width).
        log_sum: float32 (batch * heads, queries, 1), logarithms of the rows' sums of exponentials.
        lengths: (batch,), the keys of each clip that are attended to; None for all.
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array
    output: jax.Array
    log_sum: jax.Array
    lengths: jax.Array | None


@jax.custom_vjp
def attention_by_head(
    query: Float[Array, "batch queries heads width"],
    key: Float[Array, "batch tokens heads width"],
    value: Float[Array, "batch tokens heads width"],
    lengths: Int[Array, " batch"] | None = None,
) -> Float[Array, "batch queries heads width"]:
    """Computes softmax(q·k/√width)·v. Supports reverse-mode differentiation only.

    With `lengths`, only so many of the first keys of each clip are attended to.
    """
    return _forward(query, key, value, lengths)[0]


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array | None
) -> tuple[jax.Array, Residuals]:
    batch, _, _, width = query.shape
    padding = -key.shape[1] % LANES

    def one_head(qkv: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        # (queries, width), (width, tokens + padding), (tokens + padding, width + 1)
        q, k, v = qkv
        scores = _product(q * width**-0.5, k)
        largest = scores.max(axis=1, keepdims=True)
        y = _product(jnp.exp(scores - largest).astype(v.dtype), v)
        total = y[:, width:]
        return (y[:, :width] / total).astype(v.dtype), largest + jnp.log(total)

    # Padding repeats the last key, and its value and its part of the sum are zero. Keys that are
    # not attended to are treated alike, with the first key.
    keys = _by_head(key if lengths is None else _where_attended(lengths, key, key[:, :1]))
    keys = _transpose(jnp.pad(keys, ((0, 0), (0, padding), (0, 0)), "edge"))
    values = jnp.pad(_by_head(value), ((0, 0), (0, 0), (0, 1)), constant_values=1)
    if lengths is not None:
        values = _where_attended(jnp.repeat(lengths, key.shape[2]), values)
    values = jnp.pad(values, ((0, 0), (0, padding), (0, 0)))
    output, log_sum = _scan_heads(one_head, (_by_head(query), keys, values))
    output = name_residual(_by_clip(output, batch), "attention_output")
    log_sum = name_residual(log_sum, "attention_log_sum")
    return output, Residuals(query, key, value, output, log_sum, lengths)


def _backward(residuals: Residuals, dy: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    """Computes the gradients of query, key and value.

    Weights are (key, query) here, so that no product needs them transposed.
    """
    query, key, value, y, log_sum, lengths = residuals
    batch, _, _, width = query.shape
    if lengths is not None:
        attended_key = _where_attended(lengths, key)  # for the gradient of queries
        key = _where_attended(lengths, key, key[:, :1])  # as in the forward pass
        value = _where_attended(lengths, value)

    def one_head(head: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
        q, qt, k, kt, v, dy, dyt, yt, log_sum = head  # (tokens, width); with a t (width, tokens)
        # The barrier keeps XLA from computing the exponentials for each of their two uses.
        weights = jax.lax.optimization_barrier(jnp.exp(_product(k, qt) - log_sum))
        mean = jnp.sum(dyt.astype(jnp.float32) * yt.astype(jnp.float32), axis=0, keepdims=True)
        dscores = (weights * (_product(v, dyt) - mean)).astype(q.dtype)
        dqt = _product(kt, dscores) * width**-0.5
        dk = _product(dscores, q)
        dv = _product(weights.astype(v.dtype), dy)
        return dqt.astype(q.dtype), dk.astype(q.dtype), dv.astype(q.dtype)

    q, k, v, dy, y = (_by_head(x) for x in (query * width**-0.5, key, value, dy, y))
    attended_k = k if lengths is None else _by_head(attended_key)
    heads = (
        *(q, _transpose(q), k, _transpose(attended_k), v, dy),
        *map(_transpose, (dy, y, log_sum)),
    )
    dqt, dk, dv = _scan_heads(one_head, heads)
    dq, dk, dv = (_by_clip(x, batch) for x in (_transpose(dqt), dk, dv))
    if lengths is not None:
        dk, dv = (_where_attended(lengths, x) for x in (dk, dv))
    return dq, dk, dv, None


attention_by_head.defvjp(_forward, _backward)


def _scan_heads(one_head: Callable[[Any], Any], heads: Any) -> Any:
    """Maps a function over heads, two in each iteration: products of one overlap the other's."""
    return jax.lax.scan(lambda _, head: (None, one_head(head)), None, heads, unroll=2)[1]


def _where_attended(lengths: jax.Array, x: jax.Array, others: Any = 0) -> jax.Array:
    """Returns (batch, tokens, …) with `others` in place of the tokens from `lengths` on."""
    attended = jnp.arange(x.shape[1]) < lengths[:, None]
    attended = attended.reshape(*attended.shape, *(1,) * (x.ndim - 2))
    return jnp.where(attended, x, jnp.asarray(others, x.dtype))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Multiplies matrices; sums and returns float32."""
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _transpose(x: jax.Array) -> jax.Array:
    """Transposes (heads, a, b) → (heads, b, a)."""
    return jnp.swapaxes(x, 1, 2)


def _by_head(x: jax.Array) -> jax.Array:
    """Reshapes (batch, tokens, heads, width) → (batch * heads, tokens, width)."""
    _, tokens, _, width = x.shape
    return jnp.moveaxis(x, 2, 1).reshape(-1, tokens, width)


def _by_clip(x: jax.Array, batch: int) -> jax.Array:
    """Reshapes (batch * heads, tokens, width) → (batch, tokens, heads, width)."""
    return jnp.moveaxis(x.reshape(batch, -1, *x.shape[1:]), 1, 2)
