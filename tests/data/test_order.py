import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ast_jax.data.order import batch_indices, epoch_order, steps_per_epoch


@given(st.integers(0, 2**32), st.integers(0, 1000), st.integers(1, 200))
def test_an_epoch_is_a_permutation_of_the_clips(seed, epoch, clips):
    order = epoch_order(seed, epoch, clips)
    assert sorted(order) == list(range(clips))
    np.testing.assert_array_equal(order, epoch_order(seed, epoch, clips))


def test_epochs_and_seeds_differ():
    assert (epoch_order(0, 0, 100) != epoch_order(0, 1, 100)).any()
    assert (epoch_order(0, 0, 100) != epoch_order(1, 0, 100)).any()


@given(st.integers(1, 12), st.integers(12, 50), st.data())
def test_starting_at_any_step_goes_on_as_if_never_stopped(batch_size, clips, data):
    last = 3 * steps_per_epoch(clips, batch_size)
    whole = batch_indices(5, 0, last, clips, batch_size)
    first = data.draw(st.integers(0, last))
    np.testing.assert_array_equal(batch_indices(5, first, last, clips, batch_size), whole[first:])


def test_an_epoch_takes_each_clip_once_and_drops_what_fills_no_batch():
    rows = batch_indices(0, 0, 3, num_clips=14, batch_size=4)
    assert rows.shape == (3, 4)
    assert len(np.unique(rows)) == 12


def test_too_few_clips_for_a_batch_are_refused():
    with pytest.raises(ValueError, match="3 clips do not fill one batch of 4"):
        steps_per_epoch(3, 4)
