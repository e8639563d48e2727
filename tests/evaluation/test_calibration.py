import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, softmax
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from ast_jax.errors import InputError
from ast_jax.evaluation.calibration import fit_platt, fit_temperature, reliability

SINGLE, MULTI = "single_label_classification", "multi_label_classification"


def overconfident(problem_type, clips=400, classes=4, temperature=2.5):
    """Returns logits and targets of a model that is calibrated by this temperature."""
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=1.5, size=(clips, classes))
    if problem_type == SINGLE:
        chosen = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        targets = np.eye(classes)[chosen]
    else:
        targets = rng.random(logits.shape) < expit(logits)
    return (temperature * logits).astype(np.float32), targets.astype(np.float32)


def test_the_temperature_of_a_softmax_minimizes_scikit_learns_log_loss():
    logits, targets = overconfident(SINGLE)
    best = minimize_scalar(
        lambda scale: log_loss(targets, softmax(scale * logits.astype(np.float64), axis=1)),
        bounds=(0.01, 10),
        options={"xatol": 1e-9},
    )
    found = fit_temperature(SINGLE, logits, targets)
    assert found.scale == pytest.approx(best.x, rel=1e-5)
    assert 1 / found.scale == pytest.approx(2.5, rel=0.15)
    assert found.bias == 0


def test_the_temperature_of_sigmoids_is_that_of_a_regression_on_all_logits():
    logits, targets = overconfident(MULTI)
    regression = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10)
    regression.fit(logits.reshape(-1, 1), targets.ravel())
    found = fit_temperature(MULTI, logits, targets)
    assert found.scale == pytest.approx(regression.coef_.item(), rel=1e-5)
    assert 1 / found.scale == pytest.approx(2.5, rel=0.15)


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
@pytest.mark.parametrize(("sign", "message"), [(1, "every clip is"), (-1, "no better than chance")])
def test_a_temperature_without_a_minimum_is_refused(problem_type, sign, message):
    targets = np.eye(3)[[0, 1, 2, 0]]
    with pytest.raises(InputError, match=message):
        fit_temperature(problem_type, sign * (targets - 0.5), targets)


def test_platt_scaling_is_a_regression_without_penalty_on_platts_targets():
    logits, targets = overconfident(MULTI)
    targets[:, 3] = logits[:, 3] > 1  # separable
    found = fit_platt(logits, targets)
    for k in range(4):
        # A target t is one positive clip of weight t and one negative clip of weight 1 - t.
        positive = targets[:, k] > 0
        count, rest = positive.sum(), (~positive).sum()
        weights = np.where(positive, (count + 1) / (count + 2), 1 / (rest + 2))
        regression = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
            np.tile(logits[:, k : k + 1], (2, 1)).astype(np.float64),
            np.repeat([1, 0], len(logits)),
            np.concatenate([weights, 1 - weights]),
        )
        assert found.scale[k] == pytest.approx(regression.coef_.item(), rel=1e-3)
        assert found.bias[k] == pytest.approx(regression.intercept_.item(), rel=1e-3, abs=1e-3)


def test_platt_scaling_is_finite_for_any_class():
    rng = np.random.default_rng(0)
    logits = np.stack(
        [np.zeros(20), 1e4 + rng.normal(size=20), rng.normal(size=20), 1e-3 * np.arange(20)], 1
    ).astype(np.float32)
    targets = np.zeros((20, 4))
    targets[:5] = 1
    targets[:, 2] = 0
    scale, bias = fit_platt(logits, targets)
    probabilities = expit(scale * logits + bias)
    share = (5 * 6 / 7 + 15 / 17) / 20
    np.testing.assert_allclose(probabilities[:, [0, 1, 3]].mean(axis=0), share, rtol=1e-3)
    assert (scale[2], bias[2]) == (1, 0)  # without clips


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
@pytest.mark.parametrize("bins", [1, 15])
def test_bins_match_scikit_learn(problem_type, bins):
    logits, targets = overconfident(problem_type)
    if problem_type == SINGLE:
        probabilities = softmax(logits, axis=1)
        came_true = probabilities.argmax(axis=1) == targets.argmax(axis=1)
        values = probabilities.max(axis=1)
    else:
        probabilities = expit(logits)
        came_true, values = targets.ravel() > 0, probabilities.ravel()
    found = reliability(problem_type, probabilities, targets, bins)
    frequency, mean = calibration_curve(came_true, values, n_bins=bins)
    some = found.counts > 0
    np.testing.assert_allclose(found.frequency[some], frequency)
    np.testing.assert_allclose(found.probability[some], mean, rtol=1e-6)
    assert np.isnan(found.frequency[~some]).all()
    expected = np.average(abs(frequency - mean), weights=found.counts[some])
    assert found.expected_calibration_error == pytest.approx(expected, abs=1e-6)


def test_probabilities_at_the_ends_of_bins_are_in_the_first_and_last():
    found = reliability(MULTI, np.array([[0.0, 1.0]]), np.array([[0, 1]]), 4)
    np.testing.assert_array_equal(found.counts, [1, 0, 0, 1])
    assert found.expected_calibration_error == 0
