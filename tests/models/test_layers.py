import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ast_jax.models.config import ASTConfig
from ast_jax.models.layers import LayerNorm, Linear, gelu
from tests.programs import equations


def products(function, *arguments):
    """Returns the matrix products of a function's program."""
    program = jax.make_jaxpr(function)(*arguments).jaxpr
    return [x for x, _ in equations(program) if x.primitive.name == "dot_general"]


def rounded(values):
    return np.asarray(jnp.asarray(values).astype(jnp.bfloat16), np.float64)


def make_layer(inputs, outputs):
    layer = Linear(ASTConfig(dtype="bfloat16"), inputs, outputs, rngs=nnx.Rngs(0))
    layer.kernel[...] = jax.random.normal(jax.random.key(1), (inputs, outputs))
    return layer


def test_half_precision_products_accumulate_in_float32():
    layer = make_layer(256, 8)
    layer.bias[...] = jnp.full(8, 1 / 3)
    x = jax.random.normal(jax.random.key(2), (32, 256))
    (product,) = products(layer, x)
    assert {v.aval.dtype for v in product.invars} == {jnp.dtype("bfloat16")}
    assert product.params["preferred_element_type"] == jnp.float32
    exact = rounded(x) @ rounded(layer.kernel[...]) + 1 / 3
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
    np.testing.assert_allclose(of_params.bias[...], rounded(dy).sum(0), **half)


def test_a_product_keeps_all_leading_axes():
    layer = make_layer(6, 4)
    x = jax.random.normal(jax.random.key(2), (2, 3, 6))
    np.testing.assert_array_equal(layer(x), layer(x.reshape(6, 6)).reshape(2, 3, 4))


def test_gelu_and_its_gradient_are_exact():
    x = jnp.linspace(-8, 8, 999)

    def value_and_gradient(function):
        y, vjp = jax.vjp(function, x)
        return y, vjp(jnp.cos(x))[0]

    found = value_and_gradient(gelu)
    expected = value_and_gradient(lambda x: jax.nn.gelu(x, approximate=False))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_gelu_rounds_half_precision_once():
    x = jnp.linspace(-8, 8, 999).astype(jnp.bfloat16)
    y, vjp = jax.vjp(gelu, x)
    (dx,) = vjp(jnp.ones_like(x))
    exact = x.astype(jnp.float32)
    for found, expected in ((y, gelu(exact)), (dx, jax.vmap(jax.grad(gelu))(exact))):
        assert found.dtype == jnp.bfloat16
        np.testing.assert_array_equal(found, expected.astype(jnp.bfloat16))


@pytest.mark.parametrize("shape", [(5, 7, 24), (3, 1)])
def test_layer_norm_and_its_gradients_are_flaxs(shape):
    x = 3 + 2 * jax.random.normal(jax.random.key(0), shape)
    dy = jax.random.normal(jax.random.key(1), shape)
    ours, theirs = (
        nnx.split(layer)
        for layer in (
            LayerNorm(shape[-1], 1e-5, "float32", rngs=nnx.Rngs(0)),
            nnx.LayerNorm(shape[-1], epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0)),
        )
    )
    params = {name: jax.random.normal(jax.random.key(2), shape[-1:]) for name in ("scale", "bias")}

    def value_and_gradients(graph, params, x):
        y, vjp = jax.vjp(lambda params, x: nnx.merge(graph, nnx.State(params))(x), params, x)
        return y, vjp(dy)

    found, expected = (
        jax.jit(value_and_gradients, static_argnums=0)(graph, params, x)
        for graph, _ in (ours, theirs)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
