import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from ast_jax.data.sampler import (
    balancing_weights,
    epoch_order,
    process_slice,
    step_position,
    steps_per_epoch,
)


@given(st.integers(0, 2**32), st.integers(0, 1000), st.integers(1, 200))
def test_an_epoch_is_a_permutation_of_the_clips(seed, epoch, clips):
    order = epoch_order(seed, epoch, clips)
    assert sorted(order) == list(range(clips))
    np.testing.assert_array_equal(order, epoch_order(seed, epoch, clips))


@pytest.mark.parametrize("weights", [None, np.arange(1.0, 101)])
def test_epochs_and_seeds_differ_and_each_repeats(weights):
    orders = [epoch_order(seed, epoch, 100, weights) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert (orders[0] != orders[1]).any()
    assert (orders[0] != orders[2]).any()
    np.testing.assert_array_equal(orders[0], epoch_order(0, 0, 100, weights))


def test_weights_are_the_originals():
    # As in the original's egs/audioset/gen_weight_file.py, for clips with several classes or none.
    clips = [[0], [0, 1], [0, 1, 2], [], [2], [0]]
    targets = np.zeros((6, 4), np.float32)  # class 3 has no clips
    for row, classes in zip(targets, clips, strict=True):
        row[classes] = 1
    counts = [4, 2, 2, 0]
    expected = [sum(1000 / (counts[c] + 0.01) for c in classes) for classes in clips]
    weights = balancing_weights(targets)
    assert weights.dtype == np.float64
    np.testing.assert_allclose(weights, expected, rtol=1e-12)


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 2**32))
def test_weights_of_sparse_targets_equal_dense_ones(clips, classes, seed):
    targets = (np.random.default_rng(seed).random((clips, classes)) < 0.4).astype(np.float32)
    np.testing.assert_allclose(
        balancing_weights(csr_array(targets)), balancing_weights(targets), rtol=1e-12
    )


def test_counts_of_millions_of_clips_are_exact():
    count = 2_000_003
    targets = csr_array(
        (np.ones(count, np.float32), np.zeros(count, np.int64), np.arange(count + 1)),
        shape=(count, 1),
    )
    np.testing.assert_allclose(balancing_weights(targets)[[0, -1]], 1000 / (count + 0.01))


def test_a_balanced_epoch_draws_with_replacement_in_proportion_to_the_weights():
    weights = np.array([0.0, 1, 1, 2, 4] * 400)
    order = epoch_order(0, 0, 2000, weights)
    assert order.shape == (2000,)
    assert len(np.unique(order)) < 2000
    shares = np.bincount(order % 5, minlength=5) / 2000
    np.testing.assert_allclose(shares, [0, 1 / 8, 1 / 8, 1 / 4, 1 / 2], atol=0.04)
    assert shares[0] == 0


def test_a_balanced_epoch_draws_rare_classes_as_often_as_common_ones():
    targets = np.eye(2, dtype=np.float32)[[0] * 1900 + [1] * 100]
    order = epoch_order(0, 0, 2000, balancing_weights(targets))
    assert abs(targets[order].mean(axis=0)[1] - 0.5) < 0.04


@given(st.integers(1, 12), st.integers(12, 50), st.integers(0, 200))
def test_steps_continue_across_epochs(batch_size, clips, step):
    epoch, start = step_position(step, clips, batch_size)
    assert start % batch_size == 0
    assert start + batch_size <= clips
    assert epoch * steps_per_epoch(clips, batch_size) + start // batch_size == step


def test_an_epoch_drops_the_incomplete_batch():
    positions = [step_position(step, num_clips=14, batch_size=4) for step in range(5)]
    assert positions == [(0, 0), (0, 4), (0, 8), (1, 0), (1, 4)]


def test_too_few_clips_for_a_batch_are_refused():
    with pytest.raises(ValueError, match="3 clips do not fill one batch of 4"):
        steps_per_epoch(3, 4)
    with pytest.raises(ValueError, match="3 clips do not fill one batch of 4"):
        step_position(0, 3, 4)


@given(st.integers(1, 20), st.integers(1, 20))
def test_the_processes_slices_are_disjoint_equal_and_complete(share, processes):
    batch_size = share * processes
    parts = [range(batch_size)[process_slice(batch_size, p, processes)] for p in range(processes)]
    assert {len(part) for part in parts} == {share}
    assert [place for part in parts for place in part] == list(range(batch_size))


def test_a_batch_that_does_not_split_evenly_is_refused():
    with pytest.raises(ValueError, match="a batch of 10 does not split over 4 processes"):
        process_slice(10, 0, 4)
