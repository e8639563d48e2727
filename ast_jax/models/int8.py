"""Linear layers that multiply 8-bit integers, for inference on CPUs.

Weights are rounded once, by column; what they multiply is rounded where it stands, by token, each
to 255 steps of its largest value. Sums are 32-bit and exact. Attention is in bfloat16.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ast_jax.models.rows import row_max

STEPS = 127  # on each side of zero


class Int8Linear(nnx.Module):
    """x · kernel + bias, (tokens, inputs) → float32 (tokens, outputs), in rounded numbers."""

    def __init__(self, inputs: int, outputs: int, use_bias: bool):
        self.kernel = nnx.Param(jnp.zeros((inputs, outputs), jnp.int8))
        self.scale = nnx.Param(jnp.ones((1, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """(tokens, inputs) → float32 (tokens, outputs)."""
        rounded, scale = quantize(x, row_max(jnp.abs(x)))
        sums = jnp.dot(rounded, self.kernel[...], preferred_element_type=jnp.int32)
        y = sums.astype(jnp.float32) * scale * self.scale[...]
        return y if self.bias is None else y + self.bias[...]


def quantize(x: jax.Array, largest: jax.Array) -> tuple[jax.Array, jax.Array]:
    """X as int8 times a float32 scale, by which `largest` is 127.

    `largest` is that of |x| along some axis, which stays with length 1.
    """
    largest = largest.astype(jnp.float32)
    scale = jnp.where(largest > 0, largest, 1) / STEPS
    return jnp.round(x / scale).astype(jnp.int8), scale


def quantized(params: dict[str, Any]) -> dict[str, Any]:
    """A model's float32 parameters with the encoder's kernels as `Int8Linear` takes them."""

    def walk(tree: dict[str, Any]) -> dict[str, Any]:
        rounded: dict[str, Any] = {}
        for name, value in tree.items():
            if isinstance(value, dict):
                rounded[name] = walk(value)
            elif name == "kernel":
                largest = jnp.abs(value).max(axis=-2, keepdims=True)
                rounded[name], rounded["scale"] = quantize(value, largest)
            else:
                rounded[name] = value
        return rounded

    ast = params["ast"] | {"encoder": walk(params["ast"]["encoder"])}
    return params | {"ast": ast}
