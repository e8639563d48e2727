import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ast_jax.columns import Columns
from ast_jax.models.config import ASTConfig

COLUMNS = Columns.of(ASTConfig(), 16000)


def test_columns_of_the_default_model_last_100_ms_around_the_centers_of_their_patches():
    assert (COLUMNS.per_input, COLUMNS.hop, COLUMNS.input_samples) == (101, 1600, 164080)
    borders = COLUMNS.borders(160000)
    assert len(borders) == COLUMNS.count(160000) + 1 == 100
    # Column 1 has the frames 10 to 25: the samples 1600 to 4399, whose center is at 187.5 ms.
    np.testing.assert_allclose(borders[[0, 1, 2, -2, -1]], [0, 0.1375, 0.2375, 9.8375, 10])


@given(
    st.integers(400, 10**6),
    st.integers(1, 20),
    st.integers(16, 100),
    st.sampled_from([8000, 16000, 22050]),
)
def test_inputs_cover_all_columns_of_a_recording_with_sound(samples, stride, length, rate):
    columns = Columns.of(ASTConfig(time_stride=stride, max_length=length), rate)
    count, firsts = columns.count(samples), columns.inputs(samples)
    covered = {c for first in firsts for c in range(first, first + columns.per_input)}
    assert covered >= set(range(count))
    if count > columns.per_input:  # no input has padding
        assert max(covered) == count - 1
        last_patch_end = (count - 1) * columns.hop + columns.size
        assert last_patch_end <= samples
    assert np.diff(columns.borders(samples)).min() > 0


@given(st.lists(st.tuples(st.floats(0, 29), st.floats(0.001, 10)), min_size=1, max_size=5))
def test_targets_of_inputs_are_parts_of_one_timeline_with_every_event(times):
    samples = 30 * 16000
    events = np.array(
        [(start, min(start + length, 30), i) for i, (start, length) in enumerate(times)]
    )
    count, firsts = COLUMNS.count(samples), COLUMNS.inputs(samples)
    timeline = np.full((count, len(events)), np.nan)
    for first in firsts:
        part = COLUMNS.targets(events, len(events), samples, first)
        before = timeline[first : first + 101]
        assert ((before == part) | np.isnan(before)).all()  # inputs that overlap agree
        timeline[first : first + 101] = part
    borders = COLUMNS.borders(samples)
    for i, (start, end, _) in enumerate(events):
        active = np.flatnonzero(timeline[:, i])
        assert len(active)
        assert (np.diff(active) == 1).all()
        assert abs(borders[active[0]] - start) <= 0.1376  # the first and the last are longer
        if end - start > 0.2:
            assert abs(borders[active[-1] + 1] - end) <= 0.16


def test_columns_after_the_end_of_a_recording_have_no_class():
    targets = COLUMNS.targets(np.array([[0.0, 2.0, 1]]), 2, 2 * 16000)
    assert targets[: COLUMNS.count(32000), 1].all()
    assert not targets[COLUMNS.count(32000) :].any()


@pytest.mark.parametrize("samples", [1, 400, 2800])
def test_a_recording_shorter_than_a_patch_is_one_column(samples):
    assert COLUMNS.count(samples) == 1
    assert COLUMNS.inputs(samples) == [0]
    np.testing.assert_array_equal(COLUMNS.borders(samples), [0, samples / 16000])
