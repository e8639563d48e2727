"""The parts of an encoder layer beside attention, initialized as the original's."""

from functools import partial
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
        self.fc1 = Linear(config, config.hidden_size, config.intermediate_size, rngs=rngs)
        self.fc2 = Linear(config, config.intermediate_size, config.hidden_size, rngs=rngs)

    def __call__(self, x: Tokens) -> Tokens:
        """Computes the MLP of each token."""
        hidden = name_residual(self.fc1(x).astype(self.dtype), "mlp_hidden")
        return self.fc2(gelu(hidden))


class Linear(nnx.Module):
    """A linear map with parameters named as `nnx.Linear`'s, and a float32 output."""

    def __init__(
        self, config: ASTConfig, inputs: int, outputs: int, use_bias: bool = True, *, rngs: nnx.Rngs
    ):
        self.dtype = jnp.dtype(config.dtype)
        # timm's trunc_normal_(std=.02) cuts at ±2, a hundred deviations out: a plain normal.
        init = nnx.initializers.normal(config.initializer_range)
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs)))
        zeros = nnx.initializers.zeros
        self.bias = nnx.Param(zeros(rngs.params(), (outputs,))) if use_bias else None

    def __call__(self, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows outputs"]:
        """Computes x·kernel + bias, with x and the kernel rounded to the configured dtype."""
        kernel = self.kernel[...].astype(self.dtype)
        bias = None if self.bias is None else self.bias[...]
        return linear(x.astype(self.dtype), kernel, bias)


class LayerNorm(nnx.Module):
    """A layer norm with parameters named as `nnx.LayerNorm`'s."""

    def __init__(self, width: int, epsilon: float, dtype: str, *, rngs: nnx.Rngs):
        self.epsilon, self.dtype = epsilon, jnp.dtype(dtype)
        self.scale = nnx.Param(nnx.initializers.ones(rngs.params(), (width,)))
        self.bias = nnx.Param(nnx.initializers.zeros(rngs.params(), (width,)))

    def __call__(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
        """Normalizes in float32 and returns the configured dtype."""
        return layer_norm(x, self.scale[...], self.bias[...], self.epsilon).astype(self.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*rows width"],
    scale: Float[Array, " width"],
    bias: Float[Array, " width"],
    epsilon: float,
) -> Float[Array, "*rows width"]:
    """Normalizes with PyTorch's two-pass variance, (x - mean)/√(variance + epsilon)·scale + bias.

    The backward pass takes half of the sums over rows of JAX's own.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, tuple]:
    mean = x.mean(-1, keepdims=True)
    factor = jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + epsilon)
    mean, factor = (name_residual(row, "norm_statistics") for row in (mean, factor))
    return (x - mean) * (factor * scale) + bias, (x, scale, mean, factor)


def _layer_norm_backward(epsilon: float, residuals: tuple, dy: jax.Array) -> tuple:
    x, scale, mean, factor = residuals
    normalized = (x - mean) * factor
    scaled = dy * scale
    mean_scaled = scaled.mean(-1, keepdims=True)
    mean_product = (scaled * normalized).mean(-1, keepdims=True)
    dx = factor * (scaled - mean_scaled - normalized * mean_product)
    rows = tuple(range(x.ndim - 1))
    return dx, (dy * normalized).sum(rows), dy.sum(rows)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes the exact GELU, x·Φ(x), in float32, and returns the dtype of x.

    So does its gradient: JAX's own would be float32, which XLA writes to memory. `jax.nn.gelu`
    computes it by erfc, which takes twice the time on CPUs. By erf the absolute error is 1e-6, and
    below -5, where the GELU is smaller than that, the result is zero or noise.
    """
    y = x.astype(jnp.float32)
    return (y * _normal_cdf(y)).astype(x.dtype)


def _gelu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gelu(x), x


def _gelu_backward(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    y = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * y * y) * (2 * jnp.pi) ** -0.5
    return ((dy.astype(jnp.float32) * (_normal_cdf(y) + y * density)).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1 + jax.lax.erf(x * 0.5**0.5))


@jax.custom_vjp
def linear(
    x: Float[Array, "*rows inputs"],
    kernel: Float[Array, "inputs outputs"],
    bias: Float[Array, " outputs"] | None,
) -> Float[Array, "*rows outputs"]:
    """Computes x·kernel + bias in float32, the dtype that products are summed in.

    The gradient's products are of the operands' dtype too: JAX's own would multiply the float32
    gradient by bfloat16 operands in float32. Supports reverse-mode differentiation only.
    """
    # Asked for bfloat16, jax 0.10's CPU compiler widens the operands, in three times the time.
    y = jnp.dot(x.reshape(-1, x.shape[-1]), kernel, preferred_element_type=jnp.float32)
    y = y.reshape(*x.shape[:-1], -1)  # here, so that XLA fuses what follows
    return y if bias is None else y + bias


def _linear_forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None
) -> tuple[jax.Array, tuple]:
    return linear(x, kernel, bias), (x, kernel, bias)


def _linear_backward(residuals: tuple, dy: jax.Array) -> tuple:
    x, kernel, bias = residuals
    rows = x.reshape(-1, x.shape[-1])
    dy = dy.astype(x.dtype).reshape(len(rows), -1)
    dx = jnp.einsum("ro,io->ri", dy, kernel, preferred_element_type=jnp.float32)
    dkernel = jnp.einsum("ri,ro->io", rows, dy, preferred_element_type=jnp.float32)
    dbias = None if bias is None else dy.sum(0, dtype=jnp.float32)
    return dx.astype(x.dtype).reshape(x.shape), dkernel.astype(kernel.dtype), dbias


linear.defvjp(_linear_forward, _linear_backward)


def torch_uniform(fan_in: int) -> nnx.Initializer:
    """Returns PyTorch's default for a Linear's or Conv's weight and bias, U(±1/√fan_in)."""
    limit = fan_in**-0.5

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32, **_: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init
