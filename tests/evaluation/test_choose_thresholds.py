import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import precision_recall_curve

from ast_jax.errors import InputError
from ast_jax.evaluation.choose_thresholds import choose_thresholds


@st.composite
def predictions(draw):
    """Returns scores with many, few or no ties, and targets of rare to full classes."""
    shape = draw(st.tuples(st.integers(1, 30), st.integers(1, 3)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    few = st.sampled_from([dtype(0), dtype(0.5), np.nextafter(dtype(0.5), dtype(1)), dtype(1)])
    any_score = st.floats(0, 1, width=np.finfo(dtype).bits).map(dtype)
    scores = draw(arrays.arrays(dtype, shape, elements=draw(st.sampled_from([few, any_score]))))
    targets = draw(arrays.arrays(np.float32, shape, elements=st.sampled_from([0, 0, 1])))
    return scores, targets


@settings(deadline=None, max_examples=50)
@given(predictions())
def test_a_threshold_has_the_best_f1_of_scikit_learns_curve(predicted):
    scores, targets = predicted
    chosen = choose_thresholds(scores, targets)
    for k, threshold in enumerate(chosen):
        if not targets[:, k].any():
            assert threshold == np.inf
            continue
        precision, recall, candidates = precision_recall_curve(targets[:, k], scores[:, k])
        f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-9))[:-1]
        detected = scores[:, k] >= threshold
        hits = (detected & (targets[:, k] > 0)).sum()
        found = 2 * hits / (detected.sum() + targets[:, k].sum())
        assert found == pytest.approx(f1.max())
        # The highest of the equally good: a higher one would detect fewer clips.
        equal = candidates[f1 >= f1.max() - 1e-12]
        assert detected.sum() == (scores[:, k] >= equal.max()).sum()


@settings(deadline=None, max_examples=50)
@given(predictions(), st.sampled_from([0.1, 0.5, 2 / 3, 0.9, 1.0]))
def test_a_threshold_is_the_lowest_with_the_precision_asked_for(predicted, min_precision):
    scores, targets = predicted
    chosen = choose_thresholds(scores, targets, min_precision)
    for k, threshold in enumerate(chosen):
        if not targets[:, k].any():
            assert threshold == np.inf
            continue
        precision, _, candidates = precision_recall_curve(targets[:, k], scores[:, k])
        lowest = candidates[precision[:-1] >= min_precision].min(initial=np.inf)
        np.testing.assert_array_equal(scores[:, k] >= threshold, scores[:, k] >= lowest)
        assert np.isinf(threshold) == np.isinf(lowest)


def test_a_threshold_is_between_scores_so_that_rounding_changes_no_decision():
    scores = np.array([[0.9, 0.6], [0.8, 0.5], [0.4, 0.4]], np.float32)
    targets = np.array([[1, 1], [1, 1], [0, 1]])
    np.testing.assert_allclose(choose_thresholds(scores, targets), [0.6, 0.2])


@pytest.mark.parametrize(
    ("scores", "targets", "min_precision", "message"),
    [
        ([[0.5, np.nan]], [[0, 1]], None, "scores are not all from 0 to 1"),
        ([[0.5, 1.5]], [[0, 1]], None, "scores are not all from 0 to 1"),
        ([[0.5, 1.0]], [[0], [1]], None, r"scores have the shape \(1, 2\) and targets \(2, 1\)"),
        (np.zeros((0, 2)), np.zeros((0, 2)), None, r"scores have the shape \(0, 2\)"),
        ([[0.5]], [[1]], 0, "min_precision is 0; it must be over 0 and at most 1"),
        ([[0.5]], [[1]], np.nan, "min_precision is nan"),
    ],
)
def test_invalid_arguments_are_refused(scores, targets, min_precision, message):
    with pytest.raises(InputError, match=message):
        choose_thresholds(scores, targets, min_precision)
