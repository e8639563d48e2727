"""Multi-head self-attention."""

import jax
import jax.numpy as jnp
from flax import nnx

from ast_jax.models.config import ASTConfig


class Attention(nnx.Module):
    """Self-attention with query, key and value from one product (timm's `Attention`)."""

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        linear = {
            "kernel_init": nnx.initializers.normal(config.initializer_range),
            "dtype": jnp.dtype(config.dtype),
            "rngs": rngs,
        }
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.qkv = nnx.Linear(width, 3 * width, use_bias=config.qkv_bias, **linear)
        self.output = nnx.Linear(width, width, **linear)

    def __call__(self, x: jax.Array, with_weights: bool = False) -> tuple[jax.Array, jax.Array | None]:
        """(batch, tokens, hidden) → the same, and on request weights (batch, heads, to, from)."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        query, key, value = (qkv[:, :, i] for i in range(3))  # (batch, tokens, heads, head width)
        if with_weights:
            weights = attention_weights(query, key)
            y = jnp.einsum("bhts,bshk->bthk", weights, value)
        else:
            weights = None
            y = dot_product_attention(query, key, value)
        return self.output(y.reshape(batch, tokens, width)), weights


def attention_weights(query: jax.Array, key: jax.Array) -> jax.Array:
    """softmax(q·k/√width) in float32: (batch, tokens, heads, width) → (batch, heads, to, from)."""
    scores = jnp.einsum("bthk,bshk->bhts", query, key, preferred_element_type=jnp.float32)
    return jax.nn.softmax(scores * query.shape[-1] ** -0.5).astype(query.dtype)


def dot_product_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Attention of (batch, tokens, heads, width) arrays, by what is fastest on the backend."""
    if jax.default_backend() == "cpu":
        return _attention_by_head(query, key, value)
    # cuDNN's fused kernel takes half precision only, and no odd number of tokens in training.
    fused = (
        jax.default_backend() == "gpu"
        and query.dtype in (jnp.bfloat16, jnp.float16)
        and query.shape[1] % 2 == 0
    )
    return jax.nn.dot_product_attention(
        query, key, value, implementation="cudnn" if fused else "xla"
    )


def _attention_by_head(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """One head at a time, so that a head's scores stay in cache: on a CPU three times faster."""

    def one_head(qkv: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        q, k, v = qkv  # (batch, tokens, width)
        scores = jnp.einsum("btk,bsk->bts", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5).astype(q.dtype)
        return jnp.einsum("bts,bsk->btk", weights, v)

    heads_first = tuple(jnp.moveaxis(x, 2, 0) for x in (query, key, value))
    return jnp.moveaxis(jax.lax.map(one_head, heads_first), 0, 2)
