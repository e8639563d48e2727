import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ast_jax.models.config import ASTConfig
from ast_jax.models.layers import gelu, linear
from tests.programs import equations


def products(function, *arguments):
    """Returns the matrix products of a function's program."""
    program = jax.make_jaxpr(function)(*arguments).jaxpr
    return [x for x, _ in equations(program) if x.primitive.name == "dot_general"]


def rounded(values):
    return np.asarray(jnp.asarray(values).astype(jnp.bfloat16), np.float64)


def make_layer(inputs, outputs):
    layer = linear(ASTConfig(dtype="bfloat16"), inputs, outputs, nnx.Rngs(0))
    layer.kernel[...] = jax.random.normal(jax.random.key(1), (inputs, outputs))
    return layer


def test_half_precision_products_accumulate_in_float32():
    layer = make_layer(256, 8)
    layer.bias[...] = jnp.full(8, 1 / 3)
    x = jax.random.normal(jax.random.key(2), (32, 256))
    (product,) = products(layer, x)
    assert {v.aval.dtype for v in product.invars} == {jnp.dtype("bfloat16")}
    assert product.params["preferred_element_type"] == jnp.float32
    exact = rounded(x) @ rounded(layer.kernel[...]) + rounded(1 / 3)
    assert layer(x).dtype == jnp.float32
    np.testing.assert_allclose(layer(x), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 31, 64])
@pytest.mark.parametrize(("inputs", "outputs"), [(24, 96), (96, 24), (64, 64), (7, 5)])
def test_half_precision_gradients_use_rounded_operands(tokens, inputs, outputs):
    layer = make_layer(inputs, outputs)
    x = jax.random.normal(jax.random.key(2), (tokens, inputs))
    dy = jax.random.normal(jax.random.key(3), (tokens, outputs))
    graph, params = nnx.split(layer)

    def loss(params, x):
        return (nnx.merge(graph, params)(x) * dy).sum()

    gradients = jax.grad(loss, argnums=(0, 1))
    operands = [v.aval.dtype for p in products(gradients, params, x) for v in p.invars]
    assert operands == [jnp.bfloat16] * 6
    of_params, dx = jax.jit(gradients)(params, x)
    assert {leaf.dtype for leaf in jax.tree.leaves((of_params, dx))} == {jnp.dtype("float32")}
    half = {"rtol": 2**-8, "atol": 1e-5}  # each is rounded once more
    np.testing.assert_allclose(dx, rounded(dy) @ rounded(layer.kernel[...]).T, **half)
    np.testing.assert_allclose(of_params.kernel[...], rounded(x).T @ rounded(dy), **half)
    np.testing.assert_allclose(of_params.bias[...], np.asarray(dy, np.float64).sum(0), **half)


def test_a_product_keeps_all_leading_axes():
    layer = make_layer(6, 4)
    x = jax.random.normal(jax.random.key(2), (2, 3, 6))
    np.testing.assert_array_equal(layer(x), layer(x.reshape(6, 6)).reshape(2, 3, 4))


def test_gelu_is_exact():
    x = jnp.linspace(-8, 8, 999)
    np.testing.assert_allclose(gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-6)
    assert gelu(x.astype(jnp.bfloat16)).dtype == jnp.float32
