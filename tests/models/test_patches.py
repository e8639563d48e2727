import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ast_jax.models.config import ASTConfig
from ast_jax.models.patches import PatchProjection, extract_patches


@pytest.mark.parametrize(
    ("size", "strides", "shape"),
    [
        (16, (10, 10), (128, 128)),
        (16, (16, 16), (65, 47)),  # nothing overlaps, and something is left over
        (16, (7, 5), (50, 40)),  # windows of three and four strides
        (16, (20, 17), (60, 60)),  # gaps
        (4, (1, 3), (4, 9)),
        (3, (5, 8), (3, 3)),  # one patch, and strides beyond it
    ],
)
def test_patches_are_sliding_windows_in_frequency_major_order(size, strides, shape):
    x = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(x.swapaxes(1, 2), (size, size), (1, 2))
    expected = windows[:, :: strides[0], :: strides[1]].reshape(2, -1, size * size)
    found = jax.jit(extract_patches, static_argnums=(1, 2))(x, size, strides)
    np.testing.assert_array_equal(found, expected)


def test_a_projection_and_its_gradients_are_a_convolutions():
    config = ASTConfig(hidden_size=24, num_attention_heads=2, max_length=64, num_mel_bins=48)
    projection = PatchProjection(config, rngs=nnx.Rngs(0))
    graph, params = nnx.split(projection)
    x = jax.random.normal(jax.random.key(1), (2, 64, 48))
    dy = jax.random.normal(jax.random.key(2), (2, config.num_tokens - 2, 24))

    def ours(params, x):
        return nnx.merge(graph, params)(x)

    def convolution(params, x):
        y = jax.lax.conv_general_dilated(
            jnp.swapaxes(x, 1, 2)[..., None],
            params["kernel"][...],
            projection.strides,
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return (y + params["bias"][...]).reshape(2, -1, 24)

    def value_and_gradients(function):
        y, vjp = jax.vjp(function, params, x)
        return y, vjp(dy)

    found, expected = (
        jax.jit(value_and_gradients, static_argnums=0)(f) for f in (ours, convolution)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)
