import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from ast_jax.training import metrics


@pytest.fixture
def scores():
    return np.random.default_rng(0).standard_normal((60, 4))


@pytest.fixture
def targets():
    return np.eye(4, dtype=np.float32)[np.random.default_rng(1).integers(0, 4, 60)]


def test_mean_average_precision_is_scikit_learns(scores, targets):
    expected = sklearn_metrics.average_precision_score(targets, scores, average="macro")
    found = metrics.evaluate_scores(scores, targets, loss=0.5)
    assert found.mean_average_precision == pytest.approx(expected, abs=1e-12)
    assert found.classes_without_clips == 0
    assert found.loss == 0.5


def test_a_class_without_clips_is_left_out_and_counted(scores, targets):
    with_empty = np.concatenate([targets, np.zeros((60, 1), np.float32)], axis=1)
    more_scores = np.concatenate([scores, scores[:, :1]], axis=1)
    found = metrics.evaluate_scores(more_scores, with_empty, loss=0.0)
    expected = metrics.evaluate_scores(scores, targets, loss=0.0)
    assert found.classes_without_clips == 1
    assert found.mean_average_precision == expected.mean_average_precision


def test_accuracy_counts_the_highest_score(scores, targets):
    expected = sklearn_metrics.accuracy_score(targets.argmax(1), scores.argmax(1))
    assert metrics.accuracy(scores, targets) == pytest.approx(expected)
    assert metrics.accuracy(targets, targets) == 1


def test_the_confusion_matrix_is_scikit_learns(scores, targets):
    expected = sklearn_metrics.confusion_matrix(targets.argmax(1), scores.argmax(1))
    np.testing.assert_array_equal(metrics.confusion_matrix(scores, targets), expected)
