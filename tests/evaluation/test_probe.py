import sys

import numpy as np
import pytest

from ast_jax.errors import InputError
from ast_jax.evaluation import probe
from ast_jax.evaluation.probe import PROBES, Fold, Probe, train_probe

pytest.importorskip("sklearn")

CLASSES, FEATURES = 3, 6


def clusters(clips, seed=0, spread=0.6):
    """Returns embeddings around a center for each class, of very different scales, and targets."""
    rng = np.random.default_rng(seed)
    labels = np.arange(clips) % CLASSES
    centers = rng.standard_normal((CLASSES, FEATURES))
    embeddings = centers[labels] + spread * rng.standard_normal((clips, FEATURES))
    scales = 10.0 ** np.arange(-2, FEATURES - 2)
    return (5 + scales * embeddings).astype(np.float32), np.eye(CLASSES, dtype=np.float32)[labels]


FOLDS = ["fold1", "fold2", "fold3"]
ALL_FOLDS = {held: [each for each in FOLDS if each != held] for held in FOLDS}


@pytest.fixture
def few_settings(monkeypatch):
    monkeypatch.setattr(probe, "REGULARIZATION", (1e-3, 0.1, 1.0))
    monkeypatch.setattr(probe, "NEIGHBORS", (1, 4, 100))  # the last more than there are


def by_hand(name, x, targets, groups, held_out, training):
    """Returns the setting and the scores of a probe, without pipelines and searches."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score
    from sklearn.neighbors import KNeighborsRegressor

    one_class = (targets.sum(axis=1) == 1).all()

    def predict(inside, outside, setting):
        mean, std = x[inside].astype(float).mean(axis=0), x[inside].astype(float).std(axis=0)
        known, new = ((x[rows] - mean) / std for rows in (inside, outside))
        if name == "nearest neighbors":
            neighbors = KNeighborsRegressor(setting, weights="distance")
            return neighbors.fit(known, targets[inside]).predict(new)
        logistic = LogisticRegression(C=setting, max_iter=1000)
        if one_class:
            return logistic.fit(known, targets[inside].argmax(axis=1)).predict_proba(new)
        fitted = [
            logistic.fit(known, column).predict_proba(new)[:, 1] for column in targets[inside].T
        ]
        return np.stack(fitted, axis=1)

    def score(scores, rows):
        if one_class:
            return np.mean(scores.argmax(axis=1) == targets[rows].argmax(axis=1))
        return average_precision_score(targets[rows], scores)

    settings = (1e-3, 0.1, 1.0) if name == "logistic regression" else (1, 4)
    inside = np.isin(groups, training)
    best, best_score = None, -1.0
    for setting in settings:
        inner = []
        for group in training:
            rows = groups == group
            inner.append(score(predict(inside & ~rows, rows, setting), rows))
        if np.mean(inner) > best_score:
            best, best_score = setting, np.mean(inner)
    return best, predict(inside, groups == held_out, best)


@pytest.mark.parametrize("labels", ["one class", "several classes"])
@pytest.mark.parametrize("name", PROBES)
def test_a_probe_equals_one_made_by_hand(few_settings, name, labels):
    x, targets = clusters(60)
    groups = np.repeat(FOLDS, 20)
    if labels == "several classes":
        targets = np.maximum(
            targets, np.roll(targets, 1, axis=0) * (np.arange(60) % 4 > 1)[:, None]
        )
    found = train_probe(name, x, targets, groups.tolist(), ALL_FOLDS)
    assert (found.name, found.metric) == (name, "accuracy" if labels == "one class" else "mAP")
    for fold, (held_out, training) in zip(found.folds, ALL_FOLDS.items(), strict=True):
        setting, scores = by_hand(name, x, targets, groups, held_out, training)
        assert (fold.group, fold.setting) == (held_out, setting)
        np.testing.assert_array_equal(fold.clips, np.flatnonzero(groups == held_out))
        np.testing.assert_allclose(fold.scores, scores, atol=1e-4)
        if labels == "one class":
            expected = np.mean(scores.argmax(axis=1) == targets[fold.clips].argmax(axis=1))
            assert fold.score == pytest.approx(expected)
    assert found.mean > 0.7


@pytest.mark.parametrize("name", PROBES)
def test_shuffled_labels_give_chance(few_settings, name):
    x, targets = clusters(150)
    groups = np.repeat(FOLDS, 50).tolist()
    assert train_probe(name, x, targets, groups, ALL_FOLDS).mean > 0.8
    targets = np.random.default_rng(1).permutation(targets)
    assert train_probe(name, x, targets, groups, ALL_FOLDS).mean < 0.45  # a third is chance


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("training", [["fold1", "fold2"], ["fold1"]])
def test_held_out_clips_have_no_part_in_training(few_settings, name, training):
    x, targets = clusters(90)
    groups = np.repeat(FOLDS, 30).tolist()
    (before,) = train_probe(name, x, targets, groups, {"fold3": training}).folds
    x[61:] *= 1000  # all held-out clips but one, and clips that take no part
    targets[61:] = np.roll(targets[61:], 1, axis=1)
    if training == ["fold1"]:
        x[30:60] = 0
    (after,) = train_probe(name, x, targets, groups, {"fold3": training}).folds
    assert before.setting == after.setting
    np.testing.assert_array_equal(before.scores[0], after.scores[0])


def test_classes_that_no_training_clip_has_get_no_score(few_settings):
    x, targets = clusters(60)
    targets = np.pad(targets, ((0, 0), (0, 1)))
    targets[-1] = [0, 0, 0, 1]
    groups = np.repeat(FOLDS, 20).tolist()
    (fold,) = train_probe(PROBES[0], x, targets, groups, {"fold3": FOLDS[:2]}).folds
    assert fold.scores.shape == (20, 4)
    assert (fold.scores[:, 3] == 0).all()
    (fold,) = train_probe(PROBES[1], x, 1 - targets, groups, {"fold3": FOLDS[:2]}).folds
    assert (fold.scores[:, 3] == 1).all()


def test_the_mean_and_deviation_are_of_folds():
    folds = [Fold("a", np.arange(1), score, 1, np.zeros((1, 2), np.float32)) for score in (0.5, 1)]
    assert Probe("x", "accuracy", folds).mean == 0.75
    assert Probe("x", "accuracy", folds).std == pytest.approx(np.std([0.5, 1], ddof=1))
    assert Probe("x", "accuracy", folds[:1]).std is None


@pytest.mark.parametrize(
    ("train_groups", "change", "message"),
    [
        ({"fold4": ["fold1"]}, {}, "no clip is in 'fold4'; choose other folds or splits"),
        ({"fold1": ["fold1"]}, {}, "'fold1' is held out and trained on; choose"),
        ({"fold1": []}, {}, "no clips but 'fold1' are there to train on; add another fold"),
        ({"fold1": ["fold2"]}, {"clips": 12}, "4 clips are too few to train on; give 5 or more"),
        (ALL_FOLDS, {"classes": 1}, "the data has one class; give data with two or more"),
        ({"fold1": ["fold2"]}, {"label": 1}, "the clips of a training fold have one class only"),
    ],
)
def test_data_that_cannot_be_probed_is_refused(train_groups, change, message):
    clips = change.get("clips", 60)
    x, targets = clusters(clips)
    if "label" in change:
        targets = np.eye(CLASSES, dtype=np.float32)[np.full(clips, change["label"])]
    targets = targets[:, : change.get("classes", CLASSES)]
    groups = np.repeat(FOLDS, clips // 3).tolist()
    with pytest.raises(InputError, match=message):
        train_probe(PROBES[0], x, targets, groups, train_groups)


def test_without_scikit_learn_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r"probes need scikit-learn, .*'ast-jax\[probe\]'"):
        probe.check_packages()
