"""Values and gradients of the TPU kernels, interpreted on a CPU, against XLA's in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.models.attention_tpu import attention_by_group
from ast_jax.models.lane_layout import BLOCK


def by_xla(einsum, qkv, num_heads, num_tokens):
    """Returns attention as `jax.nn.dot_product_attention` computes it, with an `einsum`."""
    batch, tokens, columns = qkv.shape
    query, key, value = jnp.moveaxis(qkv.reshape(batch, tokens, 3, num_heads, -1), 2, 0)
    scores = einsum("bthk,bshk->bhts", query, key[:, :num_tokens])
    weights = jax.nn.softmax(scores * query.shape[-1] ** -0.5).astype(qkv.dtype)
    y = einsum("bhts,bshk->bthk", weights, value[:, :num_tokens])
    return y.astype(qkv.dtype).reshape(batch, tokens, columns // 3)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def tpu_einsum(equation, x, y):
    """Multiplies as a TPU at the default precision: operands are rounded to bfloat16.

    In the backward pass that rounds XLA's score gradients, which are float32.
    """
    x, y = (jax.lax.reduce_precision(a.astype(jnp.float32), 8, 7) for a in (x, y))
    return jnp.einsum(equation, x, y)


def tpu_einsum_forward(equation, x, y):
    return tpu_einsum(equation, x, y), (x, y)


def tpu_einsum_backward(equation, operands, dz):
    (x, y), (of_x, of_y, of_z) = operands, equation.replace("->", ",").split(",")
    dx, dy = (
        tpu_einsum(f"{of_z},{of_y}->{of_x}", dz, y),
        tpu_einsum(f"{of_x},{of_z}->{of_y}", x, dz),
    )
    return dx.astype(x.dtype), dy.astype(y.dtype)


tpu_einsum.defvjp(tpu_einsum_forward, tpu_einsum_backward)


def with_gradients(attention, qkv, dy, num_tokens):
    """Returns the output, and the gradients of queries, keys and values, of tokens alone."""

    def value_and_gradients(qkv, dy):
        y, vjp = jax.vjp(attention, qkv)
        return [y, *jnp.split(vjp(dy)[0], 3, 2)]

    found = jax.jit(value_and_gradients)(qkv, dy)
    assert all((x[:, num_tokens:] == 0).all() for x in found[1:])
    return dict(zip(("y", "dq", "dk", "dv"), (x[:, :num_tokens] for x in found), strict=True))


def error(found, exact):
    found, exact = (np.asarray(x, np.float64) for x in (found, exact))
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("dtype", "tokens", "padding", "heads", "width"),
    [
        ("float32", 133, 11, 4, 32),  # four heads a group
        ("float32", BLOCK + 45, 0, 2, 64),
        ("float32", 146, 0, 1, 128),
        ("float32", 100, 100, 2, 64),  # more padding than a tile
        ("bfloat16", 20, 12, 3, 40),  # heads that are padded, and a group that is not full
        ("bfloat16", 1214, 2, 2, 64),
    ],
)
def test_values_and_gradients_are_as_close_as_xlas(dtype, tokens, padding, heads, width):
    rng = np.random.default_rng(0)
    qkv = 1.5 * rng.standard_normal((1, tokens + padding, 3 * heads * width))
    dy = rng.standard_normal((1, tokens + padding, heads * width))
    dy[:, tokens:] = 0  # nothing depends on the outputs of padding
    qkv, dy = jnp.asarray(qkv, dtype), jnp.asarray(dy, dtype)

    def ours(qkv):
        return attention_by_group(qkv, heads, tokens, interpret=True)

    def xla(einsum, qkv):
        return by_xla(einsum, qkv, heads, tokens)

    with jax.enable_x64(True):
        in_float64 = qkv.astype("float64"), dy.astype("float64")
        exact = with_gradients(partial(xla, jnp.einsum), *in_float64, tokens)
    theirs = with_gradients(partial(xla, tpu_einsum), qkv, dy, tokens)
    for name, found in with_gradients(ours, qkv, dy, tokens).items():
        assert found.dtype == dtype
        # As many roundings differ from case to case by a few percent.
        bound = 1e-5 if dtype == "float32" else 1.05 * error(theirs[name], exact[name])
        assert error(found, exact[name]) <= bound, name
