"""Attention on a CPU: two heads of one clip at a time, so that their scores stay in the cache.

The backward pass is written by hand, as flash attention's (Dao et al. 2022, appendix B): it
computes the weights anew from the logarithm of each row's sum, rather than write them to memory
and read them back. JAX's own would also repeat the softmax's sum and the product with the values.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ast_jax.models.rows import LANES, row_max

# What the backward pass is given: query, key, value and output (batch, tokens, heads, width), and
# the logarithm of each row's sum of exponentials, float32 (batch * heads, tokens, 1).
Kept = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


@jax.custom_vjp
def attention_by_head(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """softmax(q·k/√width)·v of (batch, tokens, heads, width) arrays, in their shape and dtype.

    It can be differentiated backwards, not forwards (`jax.jvp`).
    """
    return _forward(query, key, value)[0]


def _forward(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The output and the logarithm of each row's sum.

    The weights' sum is one more column of their product with the values, as XLA's CPU compiler is
    slow to add along rows, and the keys are turned before, as it is slow to multiply by what it
    must turn.
    """
    batch, tokens, _, width = query.shape
    padding = -tokens % LANES

    def one_head(qkv: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        q, k, v = qkv  # (tokens, width), (width, tokens + padding), (tokens + padding, width + 1)
        scores = _product(q * width**-0.5, k)
        largest = row_max(scores)
        y = _product(jnp.exp(scores - largest).astype(v.dtype), v)
        total = y[:, width:]
        return (y[:, :width] / total).astype(v.dtype), largest + jnp.log(total)

    # For whole lanes the last key once more, whose value and part of the sum are zero.
    keys = _turned(jnp.pad(_by_head(key), ((0, 0), (0, padding), (0, 0)), "edge"))
    values = jnp.pad(_by_head(value), ((0, 0), (0, 0), (0, 1)), constant_values=1)
    values = jnp.pad(values, ((0, 0), (0, padding), (0, 0)))
    y, log_sum = _two_by_two(one_head, (_by_head(query), keys, values))
    return _by_clip(y, batch), log_sum


def _forward_and_kept(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, Kept]:
    y, log_sum = _forward(query, key, value)
    return y, (query, key, value, y, log_sum)


def _backward(kept: Kept, dy: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of query, key and value from that of the output.

    Weights stand turned in it, from key to query, as then no product is by what must be turned; the
    loop over heads is given its matrices as they lie, row by row.
    """
    query, key, value, y, log_sum = kept
    batch, _, _, width = query.shape

    def one_head(of_head: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
        q, qt, k, kt, v, dy, dyt, yt, log_sum = of_head  # (tokens, width); with a t (width, tokens)
        # Behind a barrier, or the exponentials would be computed for each of their two uses.
        weights = jax.lax.optimization_barrier(jnp.exp(_product(k, qt) - log_sum))
        mean = jnp.sum(dyt.astype(jnp.float32) * yt.astype(jnp.float32), axis=0, keepdims=True)
        d_scores = (weights * (_product(v, dyt) - mean)).astype(q.dtype)
        dqt = _product(kt, d_scores) * width**-0.5
        dk = _product(d_scores, q)
        dv = _product(weights.astype(v.dtype), dy)
        return dqt.astype(q.dtype), dk.astype(q.dtype), dv.astype(q.dtype)

    q, k, v, dy, y = (_by_head(x) for x in (query * width**-0.5, key, value, dy, y))
    of_heads = (q, _turned(q), k, _turned(k), v, dy, _turned(dy), _turned(y), _turned(log_sum))
    dqt, dk, dv = _two_by_two(one_head, of_heads)
    dq, dk, dv = (_by_clip(x, batch) for x in (_turned(dqt), dk, dv))
    return dq, dk, dv


attention_by_head.defvjp(_forward_and_kept, _backward)


def _two_by_two(of_head: Callable[[Any], Any], heads: Any) -> Any:
    """`of_head` of each head, two in a turn of the loop: one fills the pauses of the other."""
    return jax.lax.scan(lambda _, head: (None, of_head(head)), None, heads, unroll=2)[1]


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a·b, summed in float32 and left so."""
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _turned(x: jax.Array) -> jax.Array:
    """(heads, a, b) → (heads, b, a)."""
    return jnp.swapaxes(x, 1, 2)


def _by_head(x: jax.Array) -> jax.Array:
    """(batch, tokens, heads, width) → (batch * heads, tokens, width)."""
    _, tokens, _, width = x.shape
    return jnp.moveaxis(x, 2, 1).reshape(-1, tokens, width)


def _by_clip(x: jax.Array, batch: int) -> jax.Array:
    """(batch * heads, tokens, width) → (batch, tokens, heads, width)."""
    return jnp.moveaxis(x.reshape(batch, -1, *x.shape[1:]), 1, 2)
