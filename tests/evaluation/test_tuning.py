import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import f1_score, log_loss, precision_score

from ast_jax.data.clips import Clips
from ast_jax.errors import InputError
from ast_jax.evaluation.checkpoints import Results, ensemble
from ast_jax.evaluation.evaluation_set import EvaluationSet
from ast_jax.evaluation.tuning import FOLDS, TuningOptions, choose, cross_fit, divide, tune

LABELS = ["bark", "meow", "owl", "wolf"]
SINGLE, MULTI = "single_label_classification", "multi_label_classification"


def draw(seed, clips=200, temperature=2.0):
    """Returns logits and targets of a multi-label model that is calibrated by this temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal([-2, -1, 0, 1], 2, (clips, 4))
    targets = rng.random(logits.shape) < expit(logits)
    return (temperature * logits).astype(np.float32), targets.astype(np.float32)


def results(logits, targets, split="test", problem_type=MULTI, **more):
    """Returns the results of a checkpoint with these logits."""
    clips = Clips([np.zeros(400, np.float32)] * len(logits), targets, ["clip"] * len(logits))
    evaluation = ensemble([expit(logits)], targets, problem_type)._replace(logits=logits)
    data = EvaluationSet("no UTF-8: \udcff", split, LABELS, 16000, clips)
    unnamed = more.pop("unnamed", [])
    return Results(data, {"run": evaluation}, None, unnamed, problem_type=problem_type, **more)


@pytest.mark.parametrize("calibration", [None, "temperature", "platt"])
def test_thresholds_of_one_split_are_scored_on_another(calibration):
    logits, targets = draw(0)
    other = results(*draw(1), "validation")
    options = TuningOptions(0.8, calibration)
    tuned = tune(results(logits, targets, tuning=other), options)
    assert not tuned.cross_fitted
    thresholds = tuned.thresholds
    assert thresholds.chosen_on == r"run on no UTF-8: \udcff, validation: 200 clips"
    assert thresholds.criterion == "lowest threshold with a precision of at least 0.8"
    assert (thresholds.calibration is None) == (calibration is None)
    assert (tuned.chosen.precision >= 0.8).all()
    scores = expit(thresholds.calibration.rescale(logits) if calibration else logits)
    predicted = scores >= thresholds.values
    np.testing.assert_allclose(tuned.per_class.f1, f1_score(targets, predicted, average=None))
    assert tuned.average.macro_f1 == pytest.approx(f1_score(targets, predicted, average="macro"))
    micro = precision_score(targets, logits >= 0, average="micro")
    assert tuned.default.micro_precision == pytest.approx(micro)
    before = tuned.uncalibrated.expected_calibration_error
    if calibration:
        assert tuned.calibrated.expected_calibration_error < before / 2
        loss = log_loss(targets.ravel(), scores.ravel())
        assert tuned.calibrated_loss == pytest.approx(loss, rel=1e-4)
    else:
        assert tuned.calibrated is None
    assert tuned.notes == []


@pytest.mark.parametrize("options", [TuningOptions(), TuningOptions(0.7, "platt")])
def test_cross_fitting_gives_clips_the_thresholds_of_the_others(options):
    logits, targets = draw(0)
    calibrated, values = cross_fit(MULTI, options, logits, targets)
    folds = divide(targets)
    for fold in range(FOLDS):
        held = folds == fold
        calibration, chosen = choose(MULTI, options, logits[~held], targets[~held])
        assert (values[held] == chosen).all()
        np.testing.assert_allclose(calibrated[held], calibration.rescale(logits[held]), rtol=1e-6)
    tuned = tune(results(logits, targets), options)
    assert tuned.cross_fitted
    expected = f1_score(targets, expit(calibrated) >= values, average=None)
    np.testing.assert_allclose(tuned.per_class.f1, expected)
    # The file has the thresholds of all clips.
    np.testing.assert_array_equal(
        tuned.thresholds.values, choose(MULTI, options, logits, targets)[1]
    )


def test_cross_fitting_does_not_find_what_is_not_there():
    logits, targets = draw(0)[0], np.zeros((200, 4), np.float32)
    targets[np.random.default_rng(0).permutation(200)[:20]] = 1
    tuned = tune(results(logits, targets), TuningOptions(0.5))
    assert np.isfinite(tuned.thresholds.values).any()
    assert np.nanmean(tuned.chosen.precision) >= 0.5
    assert not tuned.average.micro_precision or tuned.average.micro_precision < 0.3
    assert any("when a fifth of the clips is left out" in note for note in tuned.notes)


def test_folds_have_one_size_and_all_classes():
    targets = np.zeros((103, 4), np.float32)
    targets[:60, 0] = 1
    targets[40:90, 1] = 1
    targets[85:95, 2] = 1  # the rest has no class
    folds = divide(targets)
    assert np.ptp(np.bincount(folds, minlength=FOLDS)) <= 1
    assert np.ptp(np.bincount(folds[:40], minlength=FOLDS)) <= 1
    np.testing.assert_array_equal(np.bincount(folds[85:95]), [2] * FOLDS)


def test_classes_without_a_threshold_are_told():
    logits, targets = draw(0)
    targets[:, 0] = 0
    targets[:, 1] = logits[:, 1] < -1
    targets[:, 2] = 1
    targets[:, 3] = abs(logits[:, 3] - 1) < 2
    tuned = tune(results(logits, targets), TuningOptions(0.95, "platt"))
    assert tuned.notes == [
        "no clips to choose a threshold on for 1 of 4 classes, such as 'bark': never detected",
        "no precision of 0.95 for 1 of 4 classes, such as 'wolf': never detected",
        "no clips with it, or none without it for 2 of 4 classes, such as 'bark': not calibrated",
        "negative Platt scale for 2 of 4 classes, such as 'meow': detected by low logits, as the "
        "model ranks these clips worse than chance",
    ]


def test_thresholds_of_a_model_without_class_names_have_its_numbers():
    tuned = tune(results(*draw(0), unnamed=["run"]), TuningOptions())
    assert tuned.thresholds.labels == ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]


@pytest.mark.parametrize(
    ("problem_type", "options", "clips", "message"),
    [
        (SINGLE, TuningOptions(calibration="platt"), 20, "Platt scaling fits each class by itself"),
        (MULTI, TuningOptions(1.5), 20, "min_precision is 1.5"),
        (MULTI, TuningOptions(), 4, "4 clips are too few to choose thresholds on some and score"),
    ],
)
def test_what_cannot_be_tuned_is_refused(problem_type, options, clips, message):
    with pytest.raises(InputError, match=message):
        tune(results(*draw(0, clips), problem_type=problem_type), options)
