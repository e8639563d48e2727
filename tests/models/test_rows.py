import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.models.rows import row_max


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 70), seed=st.integers(0, 99))
def test_it_is_the_largest_of_each_row_whatever_the_number_of_columns(rows, columns, seed):
    x = np.random.default_rng(seed).standard_normal((rows, columns), np.float32) - 3
    np.testing.assert_array_equal(row_max(jnp.asarray(x)), x.max(axis=1, keepdims=True))
