"""The parts of an encoder layer beside attention, initialized as the original's."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ast_jax.models.config import ASTConfig
from ast_jax.models.remat import name_residual

Tokens = Float[Array, "batch tokens hidden"]
Outputs = Float[Array, "batch outputs hidden"]  # the first of the tokens, or all


class MLP(nnx.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        self.dtype = config.dtype
        self.fc1 = linear(config, config.hidden_size, config.intermediate_size, rngs)
        self.fc2 = linear(config, config.intermediate_size, config.hidden_size, rngs)

    def __call__(self, x: Tokens) -> Tokens:
        """Computes the MLP of each token."""
        hidden = name_residual(self.fc1(x).astype(self.dtype), "mlp_hidden")
        return self.fc2(gelu(hidden))


def linear(
    config: ASTConfig, inputs: int, outputs: int, rngs: nnx.Rngs, use_bias: bool = True
) -> nnx.Linear:
    """Returns a linear layer: normal weights, zero bias, float32 output.

    timm's trunc_normal_(std=.02) cuts at ±2, a hundred deviations out: a plain normal.
    """
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=use_bias,
        kernel_init=nnx.initializers.normal(config.initializer_range),
        dtype=jnp.dtype(config.dtype),
        dot_general=_dot_general,
        rngs=rngs,
    )


def layer_norm(width: int, epsilon: float, dtype: str, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Returns a layer norm with PyTorch's two-pass variance; mean and variance are float32."""
    return nnx.LayerNorm(
        width, epsilon=epsilon, use_fast_variance=False, dtype=jnp.dtype(dtype), rngs=rngs
    )


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes the exact GELU, x·Φ(x), in float32.

    `jax.nn.gelu` computes it by erfc, which takes twice the time on CPUs. By erf the absolute error
    is 1e-6, and below -5, where the GELU is smaller than that, the result is zero or noise.
    """
    x = x.astype(jnp.float32)
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def _dot_general(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """Computes `nnx.Linear`'s product, (…, inputs) · (inputs, outputs) → float32 (…, outputs)."""
    return matmul(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def matmul(
    x: Float[Array, "rows inputs"], kernel: Float[Array, "inputs outputs"]
) -> Float[Array, "rows outputs"]:
    """Multiplies matrices of one dtype and returns float32, the dtype that products are summed in.

    The gradient's products are of the operands' dtype too: JAX's own would multiply the float32
    gradient by bfloat16 operands in float32. Supports reverse-mode differentiation only.
    """
    # Asked for bfloat16, jax 0.10's CPU compiler widens the operands, in three times the time.
    return jnp.dot(x, kernel, preferred_element_type=jnp.float32)


def _matmul_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return matmul(x, kernel), (x, kernel)


def _matmul_backward(residuals: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    dy = dy.astype(x.dtype)
    dx = jnp.einsum("ro,io->ri", dy, kernel, preferred_element_type=jnp.float32)
    dkernel = jnp.einsum("ri,ro->io", x, dy, preferred_element_type=jnp.float32)
    return dx.astype(x.dtype), dkernel.astype(kernel.dtype)


matmul.defvjp(_matmul_forward, _matmul_backward)


def torch_uniform(fan_in: int) -> nnx.Initializer:
    """Returns PyTorch's default for a Linear's or Conv's weight and bias, U(±1/√fan_in)."""
    limit = fan_in**-0.5

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32, **_: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init
