import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import norm
from sklearn import metrics as sklearn_metrics

from ast_jax.errors import InputError
from ast_jax.evaluation import metrics

TOLERANCE = 1e-9


@pytest.fixture
def scores():
    return np.random.default_rng(0).standard_normal((60, 4))


@pytest.fixture
def targets():
    return np.eye(4, dtype=np.float32)[np.random.default_rng(1).integers(0, 4, 60)]


def extremes(dtype):
    """Returns extreme values of a float type, both zeros, and the neighbors of 1."""
    info, one = np.finfo(dtype), np.ones((), dtype)
    ends = (info.max, info.tiny, info.smallest_subnormal, 0, one, np.nextafter(one, 2 * one))
    return st.sampled_from([dtype(sign * value) for value in ends for sign in (1, -1)])


def any_float(dtype):
    width = np.finfo(dtype).bits
    return st.floats(width=width, allow_nan=False, allow_infinity=False).map(dtype)


@st.composite
def evaluations(draw):
    """Returns scores with many or few ties, and targets of rare, common, empty and full classes."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 5)))
    few = st.sampled_from([dtype(x) for x in (-1, 0, 0.5)])
    values = draw(st.sampled_from([few, extremes(dtype), any_float(dtype)]))
    scores = draw(arrays.arrays(dtype, shape, elements=values))
    share = draw(st.sampled_from([0.05, 0.5, 0.95]))
    seed = draw(st.integers(0, 1000))
    targets = np.random.default_rng(seed).random(shape) < share
    return scores, targets.astype(np.float32)


@settings(deadline=None)
@given(evaluations())
def test_areas_of_every_class_match_scikit_learn(evaluation):
    scores, targets = evaluation
    found = metrics.per_class_metrics(scores, targets)
    for k in range(targets.shape[1]):
        target, score = targets[:, k], scores[:, k]
        assert found.clips[k] == target.sum()
        with warnings.catch_warnings():
            # scikit-learn's sums and differences of the largest scores overflow.
            warnings.filterwarnings("ignore", "overflow|invalid value", RuntimeWarning)
            if target.any():
                expected = sklearn_metrics.average_precision_score(target, score)
                assert found.average_precision[k] == pytest.approx(expected, abs=TOLERANCE)
            else:
                assert np.isnan(found.average_precision[k])
            if target.any() and not target.all():
                expected = sklearn_metrics.roc_auc_score(target, score)
                assert found.auc[k] == pytest.approx(expected, abs=TOLERANCE)
            else:
                assert np.isnan(found.auc[k])


def test_areas_keep_the_order_of_classes_across_chunks():
    rng = np.random.default_rng(0)
    classes = 3 * metrics.CLASSES_AT_A_TIME + 1
    targets = (rng.random((200, classes)) < 0.1).astype(np.float32)
    scores = np.asfortranarray(rng.standard_normal((200, classes)).astype(np.float32))
    found = metrics.per_class_metrics(scores, targets)
    expected = sklearn_metrics.average_precision_score(targets, scores, average=None)
    np.testing.assert_allclose(found.average_precision, expected, rtol=0, atol=TOLERANCE)
    expected = sklearn_metrics.roc_auc_score(targets, scores, average=None)
    np.testing.assert_allclose(found.auc, expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(found.clips, targets.sum(axis=0))


def test_areas_count_any_target_above_0_as_positive(scores, targets):
    found = metrics.per_class_metrics(scores, 0.3 * targets)
    expected = metrics.per_class_metrics(scores, targets)
    np.testing.assert_array_equal(found, expected)


def test_scores_are_not_modified(scores, targets):
    scores.flags.writeable = targets.flags.writeable = False
    before = scores.copy()
    metrics.compute_metrics(scores, targets, loss=0.0)
    np.testing.assert_array_equal(scores, before)


def test_means_match_scikit_learn(scores, targets):
    found = metrics.compute_metrics(scores, targets, loss=0.5)
    expected = sklearn_metrics.average_precision_score(targets, scores, average="macro")
    assert found.mean_average_precision == pytest.approx(expected, abs=TOLERANCE)
    expected = sklearn_metrics.roc_auc_score(targets, scores, average="macro")
    assert found.mean_auc == pytest.approx(expected, abs=TOLERANCE)
    assert found.d_prime == pytest.approx(2**0.5 * norm.ppf(expected), abs=TOLERANCE)
    assert found.classes_without_clips == found.classes_without_auc == 0
    assert found.loss == 0.5


@pytest.mark.parametrize(("auc", "expected"), [(0.978562, 2.8637), (0.974766, 2.7662), (0.5, 0)])
def test_d_prime_matches_the_published_values(auc, expected):
    assert metrics.d_prime(auc) == pytest.approx(expected, abs=5e-5)


def test_classes_without_clips_or_with_all_are_excluded_and_counted(scores, targets):
    more_targets = np.concatenate([targets, np.zeros((60, 2)), np.ones((60, 1))], axis=1)
    more_scores = np.concatenate([scores, scores[:, :3]], axis=1)
    found = metrics.compute_metrics(more_scores, more_targets, loss=0.0)
    expected = metrics.compute_metrics(scores, targets, loss=0.0)
    assert found.classes_without_clips == 2
    assert found.classes_without_auc == 3
    # The class of all clips has precision 1.
    of_five = (4 * expected.mean_average_precision + 1) / 5
    assert found.mean_average_precision == pytest.approx(of_five)
    assert found.mean_auc == expected.mean_auc
    assert found.d_prime == expected.d_prime


def test_means_are_none_if_no_class_has_clips(scores):
    found = metrics.compute_metrics(scores, np.zeros_like(scores), loss=0.0)
    assert found[2:] == (None, None, None, 4, 4)


@pytest.mark.parametrize(("sign", "auc"), [(1, 1), (-1, 0)])
def test_an_infinite_d_prime_is_none_and_scores_are_valid_json(targets, sign, auc):
    found = metrics.compute_metrics(sign * targets, targets, loss=0.0)
    assert found.mean_auc == auc
    assert found.d_prime is None
    assert json.loads(json.dumps(found._asdict(), allow_nan=False)) == found._asdict()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_nan_score_is_refused_with_its_first_row(scores, targets, value):
    scores[41, 0] = scores[17, 3] = value
    with pytest.raises(InputError, match="scores of 2 clips are not finite, row 17 the first"):
        metrics.compute_metrics(scores, targets, loss=0.0)


def test_accuracy_uses_the_highest_score(scores, targets):
    expected = sklearn_metrics.accuracy_score(targets.argmax(1), scores.argmax(1))
    assert metrics.accuracy(scores, targets) == pytest.approx(expected)
    assert metrics.accuracy(targets, targets) == 1


def test_the_confusion_matrix_matches_scikit_learn(scores, targets):
    expected = sklearn_metrics.confusion_matrix(targets.argmax(1), scores.argmax(1))
    np.testing.assert_array_equal(metrics.confusion_matrix(scores, targets), expected)


@settings(deadline=None)
@given(
    evaluations(), st.sampled_from(["single_label_classification", "multi_label_classification"])
)
def test_precision_recall_and_f1_match_scikit_learn(evaluation, problem_type):
    scores, targets = evaluation
    predicted = metrics.predicted_classes(problem_type, scores)
    if problem_type == "single_label_classification":
        assert (predicted.argmax(axis=1) == scores.argmax(axis=1)).all()
        assert (predicted.sum(axis=1) == 1).all()
    found = metrics.classification_metrics(predicted, targets)
    for k, values in enumerate(zip(*found, strict=True)):
        *expected, _ = sklearn_metrics.precision_recall_fscore_support(
            targets[:, k], predicted[:, k], average="binary", zero_division=np.nan
        )
        np.testing.assert_allclose(values, expected, rtol=0, atol=TOLERANCE)


@settings(deadline=None, max_examples=30)
@given(evaluations())
def test_averages_over_classes_match_scikit_learn(evaluation):
    scores, targets = evaluation
    predicted = scores >= 0
    found = metrics.average_metrics(predicted, targets)
    with_clips = np.flatnonzero(targets.any(axis=0))
    for kind, undefined, some in (
        ("micro", np.nan, slice(None)),
        ("macro", 0, with_clips),
    ):
        values = [getattr(found, f"{kind}_{name}") for name in ("precision", "recall", "f1")]
        if kind == "macro" and not len(with_clips):
            assert values == [None] * 3
            continue
        # Of one column scikit-learn takes the values themselves for classes.
        columns = [np.pad(x[:, some], ((0, 0), (0, 1))) for x in (targets > 0, predicted)]
        *expected, _ = sklearn_metrics.precision_recall_fscore_support(
            *columns,
            average=kind,
            labels=range(columns[0].shape[1] - 1),
            zero_division=undefined,
        )
        values = [np.nan if value is None else value for value in values]
        np.testing.assert_allclose(values, expected, rtol=0, atol=TOLERANCE)
