"""Places of attention heads in the 128 lanes of a TPU's registers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

LANES = 128  # of a register
BLOCK = 256  # queries in a block of scores


class Layout(NamedTuple):
    """The place of heads in arrays that the kernels take.

    Attributes:
        width: the columns of a head.
        lanes: the lanes of a head: its width, padded to a divisor of 128.
        groups: the number of groups of heads that fill 128 lanes, the last with padding.
        rows: the number of tokens, padded to whole blocks.
    """

    width: int
    lanes: int
    groups: int
    rows: int


def make_layout(qkv: jax.Array, num_heads: int) -> Layout:
    """Returns the layout of (batch, tokens, 3 · heads · width)."""
    width = qkv.shape[2] // (3 * num_heads)
    lanes = next(lanes for lanes in (32, 64, LANES) if width <= lanes)
    rows = pl.cdiv(qkv.shape[1], BLOCK) * BLOCK
    return Layout(width, lanes, pl.cdiv(num_heads * lanes, LANES), rows)


def pack(x: jax.Array, num_heads: int, layout: Layout) -> jax.Array:
    """Pads heads to lanes, and their number to whole groups; base384's need neither."""
    batch, tokens, columns = x.shape
    parts = columns // (num_heads * layout.width)  # queries, keys and values, or outputs alone
    heads_padding = layout.groups * LANES // layout.lanes - num_heads
    if layout.lanes == layout.width and not heads_padding:
        return x
    x = x.reshape(batch, tokens, parts, num_heads, layout.width)
    padding = ((0, heads_padding), (0, layout.lanes - layout.width))
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), *padding)).reshape(batch, tokens, -1)


def unpack(x: jax.Array, num_heads: int, layout: Layout) -> jax.Array:
    """Removes the padding of `pack`."""
    batch, tokens, columns = x.shape
    parts = columns // (layout.groups * LANES)
    if columns == parts * num_heads * layout.width:
        return x
    x = x.reshape(batch, tokens, parts, -1, layout.lanes)
    return x[..., :num_heads, : layout.width].reshape(batch, tokens, -1)
