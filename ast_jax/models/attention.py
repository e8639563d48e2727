"""Multi-head self-attention."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from ast_jax.models.attention_cpu import attention_by_head
from ast_jax.models.config import ASTConfig
from ast_jax.models.layers import linear, linear_of


class Attention(nnx.Module):
    """Self-attention with query, key and value from one product (timm's `Attention`)."""

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.dtype = config.attention_dtype
        self.qkv = linear(config, width, 3 * width, rngs, use_bias=config.qkv_bias)
        self.output = linear(config, width, width, rngs)

    def __call__(
        self,
        x: jax.Array,
        normalize: Callable[[jax.Array], jax.Array],
        with_weights: bool = False,
        first: int | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Attention among normalised tokens.

        Args:
            x: (batch, tokens, hidden).
            normalize: the layer norm before it.
            with_weights: whether the attention weights are wanted.
            first: for how many of the tokens alone, which attend to all; None for all.

        Returns:
            (batch, tokens or first, hidden), and (batch, heads, to, from) or None.
        """
        batch, tokens, width = x.shape
        qkv = linear_of(normalize, self.qkv)(x.reshape(batch * tokens, width))
        qkv = qkv.reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        qkv = qkv.astype(self.dtype)
        query, key, value = (qkv[:, :, i] for i in range(3))  # (batch, tokens, heads, head width)
        query = query[:, :first]
        if with_weights:
            weights = attention_weights(query, key)
            y = jnp.einsum("bhts,bshk->bthk", weights, value)
        else:
            weights = None
            y = dot_product_attention(query, key, value)
        y = self.output(y.reshape(-1, width))
        return y.reshape(batch, -1, width), weights


def attention_weights(query: jax.Array, key: jax.Array) -> jax.Array:
    """softmax(q·k/√width) in float32: (batch, tokens, heads, width) → (batch, heads, to, from)."""
    scores = jnp.einsum("bthk,bshk->bhts", query, key, preferred_element_type=jnp.float32)
    return jax.nn.softmax(scores * query.shape[-1] ** -0.5).astype(query.dtype)


def dot_product_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Attention of (batch, tokens, heads, width) arrays, by what is fastest on the backend."""
    if query.shape[1] < key.shape[1]:  # a few tokens of the last layer: there is little to do
        return jax.nn.dot_product_attention(query, key, value, implementation="xla")
    if jax.default_backend() == "cpu":
        return attention_by_head(query, key, value)
    # cuDNN's fused kernel takes half precision and some widths only.
    width = query.shape[3]
    fused = (
        jax.default_backend() == "gpu"
        and query.dtype in (jnp.bfloat16, jnp.float16)
        and width % 8 == 0
        and width <= 128
    )
    if fused:
        return _even_attention(query, key, value, "cudnn")
    return _attention_by_xla(query, key, value)


@partial(jax.checkpoint, prevent_cse=False)
def _attention_by_xla(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Attention whose weights, tokens x tokens for each head, are not kept for training."""
    return jax.nn.dot_product_attention(query, key, value, implementation="xla")


def _even_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, implementation: Literal["cudnn", "xla"]
) -> jax.Array:
    """Attention for an implementation that may take no odd number of tokens, as cuDNN's kernels.

    Of an odd number one more is added, to which none attends.
    """
    batch, tokens = query.shape[:2]
    if tokens % 2 == 0:
        return jax.nn.dot_product_attention(query, key, value, implementation=implementation)
    query, key, value = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (query, key, value))
    lengths = jnp.full(batch, tokens, jnp.int32)
    padded = jax.nn.dot_product_attention(
        query,
        key,
        value,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation=implementation,
    )
    return padded[:, :tokens]
