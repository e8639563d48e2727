import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ast_jax.models.config import ASTConfig
from ast_jax.models.layers import linear
from tests.programs import equations

on_a_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="asks what a CPU does")


def products(function, *arguments):
    """The matrix products of a function's program."""
    program = jax.make_jaxpr(function)(*arguments).jaxpr
    return [x for x, _ in equations(program) if x.primitive.name == "dot_general"]


def rounded(values):
    return np.asarray(jnp.asarray(values).astype(jnp.bfloat16), np.float64)


def make_layer(inputs, outputs):
    layer = linear(ASTConfig(dtype="bfloat16"), inputs, outputs, nnx.Rngs(0))
    layer.kernel[...] = jax.random.normal(jax.random.key(1), (inputs, outputs))
    return layer


@on_a_cpu
def test_on_a_cpu_half_precision_is_multiplied_as_such_and_summed_in_float32():
    layer = make_layer(256, 8)
    layer.bias[...] = jnp.full(8, 1 / 3)
    x = jax.random.normal(jax.random.key(2), (32, 256))
    (product,) = products(layer, x)
    assert {v.aval.dtype for v in product.invars} == {jnp.dtype("bfloat16")}
    assert product.params["preferred_element_type"] == jnp.float32
    exact = rounded(x) @ rounded(layer.kernel[...]) + rounded(1 / 3)
    assert layer(x).dtype == jnp.float32
    np.testing.assert_allclose(layer(x), exact, rtol=1e-5, atol=1e-4)


@on_a_cpu
@pytest.mark.parametrize("tokens", [1, 31, 64])
@pytest.mark.parametrize(("inputs", "outputs"), [(24, 96), (96, 24), (64, 64), (7, 5)])
def test_on_a_cpu_gradients_in_half_precision_are_of_rounded_numbers(tokens, inputs, outputs):
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


def test_elsewhere_a_product_is_what_it_was(monkeypatch):
    layer = linear(ASTConfig(dtype="bfloat16"), 4, 8, nnx.Rngs(0))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    (product,) = products(layer, jnp.ones((2, 4)))
    assert product.outvars[0].aval.dtype == jnp.bfloat16
