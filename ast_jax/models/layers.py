"""The layers that attention and MLP are made of, initialised as the original's."""

import jax.numpy as jnp
from flax import nnx

from ast_jax.models.config import ASTConfig

LINEAR = "linear"  # what rematerialisation knows their results by


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


def layer_norm(width: int, epsilon: float, dtype: str, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """A layer norm with PyTorch's two-pass variance; mean and variance are float32."""
    return nnx.LayerNorm(
        width, epsilon=epsilon, use_fast_variance=False, dtype=jnp.dtype(dtype), rngs=rngs
    )
