import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.models.patchout import sample_patchout


@settings(max_examples=12, deadline=None)  # each compiles
@given(data=st.data(), frequency=st.integers(1, 12), time=st.integers(1, 20))
def test_whole_rows_and_columns_are_dropped(data, frequency, time):
    rows = data.draw(st.integers(0, frequency - 1))
    columns = data.draw(st.integers(0, time - 1))
    key = jax.random.key(data.draw(st.integers(0, 99)))
    kept = np.asarray(sample_patchout(key, (frequency, time), rows, columns))
    assert kept.shape == ((frequency - rows) * (time - columns),)
    assert (np.diff(kept) > 0).all()
    grid = np.zeros(frequency * time, bool)
    grid[kept] = True
    grid = grid.reshape(frequency, time)
    assert np.linalg.matrix_rank(grid) == 1  # an outer product of kept rows and kept columns
    assert grid.any(axis=1).sum() == frequency - rows
    assert grid.any(axis=0).sum() == time - columns


def test_rows_and_columns_are_dropped_uniformly():
    keys = jax.random.split(jax.random.key(0), 4000)
    kept = np.asarray(jax.vmap(lambda key: sample_patchout(key, (4, 10), 1, 5))(keys))
    np.testing.assert_allclose(np.bincount(kept.ravel(), minlength=40) / 4000, 3 / 8, atol=0.035)
    assert len(np.unique(kept, axis=0)) > 900  # of 4 · 252


@jax.jit
def drop_five_of_ten_columns(key, real):
    return sample_patchout(key, (1, 10), 0, 5, real)


def test_the_same_share_of_columns_that_are_not_padding_is_dropped():
    for real in range(1, 11):
        kept = [np.asarray(drop_five_of_ten_columns(jax.random.key(i), real)) for i in range(5)]
        assert {(columns < real).sum() for columns in kept} == {-(-real // 2)}
        assert all((np.diff(columns) > 0).all() and columns.size == 5 for columns in kept)
        assert real < 4 or len({tuple(columns) for columns in kept}) > 1
    without = sample_patchout(jax.random.key(0), (1, 10), 0, 5)
    np.testing.assert_array_equal(drop_five_of_ten_columns(jax.random.key(0), 10), without)
