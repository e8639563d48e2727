import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ast_jax.models.config import ASTConfig
from ast_jax.models.layers import linear


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="asks what is done on a CPU")
def test_on_a_cpu_half_precision_is_multiplied_as_such_and_summed_in_float32():
    layer = linear(ASTConfig(dtype="bfloat16"), 256, 8, nnx.Rngs(0))
    layer.kernel[...] = jax.random.normal(jax.random.key(1), (256, 8))
    x = jax.random.normal(jax.random.key(2), (32, 256))
    products = [e for e in jax.make_jaxpr(layer)(x).eqns if e.primitive.name == "dot_general"]
    (product,) = products
    assert {v.aval.dtype for v in product.invars} == {jnp.dtype("bfloat16")}
    assert product.params["preferred_element_type"] == jnp.float32

    def rounded(values):
        return np.asarray(values.astype(jnp.bfloat16), np.float64)

    exact = rounded(x) @ rounded(layer.kernel[...])
    assert layer(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(layer(x).astype(np.float32), exact, rtol=2**-8, atol=1e-4)


def test_elsewhere_a_product_is_what_it_was(monkeypatch):
    layer = linear(ASTConfig(dtype="bfloat16"), 4, 8, nnx.Rngs(0))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    equations = jax.make_jaxpr(layer)(jnp.ones((2, 4))).eqns
    (product,) = (e for e in equations if e.primitive.name == "dot_general")
    assert product.outvars[0].aval.dtype == jnp.bfloat16
