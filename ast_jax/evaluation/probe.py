"""Probes embeddings: small classifiers of scikit-learn, trained on some groups of clips."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from ast_jax.errors import InputError, quoted
from ast_jax.evaluation.metrics import accuracy, per_class_metrics

PROBES = ("logistic regression", "nearest neighbors")
REGULARIZATION = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of logistic regression, strongest first
NEIGHBORS = (1, 2, 3, 5, 8, 13, 21, 34)
INNER_FOLDS = 5  # of the training clips, where they are of one group


class Fold(NamedTuple):
    """The result of a probe on a held-out group of clips.

    Attributes:
        group: held out.
        clips: the indices of its clips.
        score: accuracy or mAP on them.
        setting: C or the number of neighbors, chosen on the training clips.
        scores: float32 (clips, classes), probabilities.
    """

    group: str
    clips: np.ndarray
    score: float
    setting: float
    scores: Float32[np.ndarray, "clips classes"]


class Probe(NamedTuple):
    """The results of a probe.

    Attributes:
        name: one of `PROBES`.
        metric: "accuracy" if every clip has one class, else "mAP".
        folds: a result for each held-out group.
    """

    name: str
    metric: str
    folds: list[Fold]

    @property
    def mean(self) -> float:
        """The mean score of the held-out groups."""
        return float(np.mean([fold.score for fold in self.folds]))

    @property
    def std(self) -> float | None:
        """The sample standard deviation of the held-out groups' scores; None for one group."""
        scores = [fold.score for fold in self.folds]
        return float(np.std(scores, ddof=1)) if len(scores) > 1 else None


def check_packages() -> None:
    """Raises InputError unless scikit-learn is installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"probes need scikit-learn, which cannot be imported ({error}); pip install "
            f"'ast-jax[probe]'"
        ) from None


def train_probe(
    name: str,
    embeddings: Float[np.ndarray, "clips features"],
    targets: Float[np.ndarray, "clips classes"],
    groups: Sequence[str],
    train_groups: Mapping[str, Sequence[str]],
) -> Probe:
    """Trains a probe for each held-out group, and scores it on that.

    The setting is the one with the best mean score over inner folds of the training clips, of
    equals the first; the probe is then trained on all of them. Inner folds are the training groups,
    or `INNER_FOLDS` random ones if there is a single group. Embeddings are standardized by the
    clips that are trained on, in inner folds too.

    Args:
        name: one of `PROBES`.
        embeddings: finite.
        targets: positive where a clip has the class.
        groups: the group of each clip, such as its fold or split.
        train_groups: the groups to train on, by the group to hold out.

    Raises:
        InputError: scikit-learn is not installed, a group has no clips or is on both sides, or
            the training clips are too few or have a single class.
    """
    check_packages()
    from threadpoolctl import threadpool_limits  # which scikit-learn needs

    has_class = targets > 0
    if has_class.shape[1] < 2:
        raise InputError("the data has one class; give data with two or more to probe")
    one_class = bool((has_class.sum(axis=1) == 1).all())
    folds = []
    for held_out, training in train_groups.items():
        _check_groups(groups, held_out, training)
        inside = np.flatnonzero(np.isin(groups, training))
        clips = np.flatnonzero(np.isin(groups, [held_out]))
        inner = _inner_folds(has_class[inside], np.array(groups)[inside], one_class)
        search = _search(name, inner, has_class.shape[1], one_class)
        # Products of this size take longer on several threads, and many times as long where other
        # processes use the cores.
        with threadpool_limits(1), warnings.catch_warnings():
            # A class that all training clips of a fold have, or none; and weak regularization,
            # which need not converge to be compared.
            warnings.filterwarnings("ignore", "Label .* is present in all training")
            warnings.filterwarnings("ignore", "lbfgs failed to converge")
            known = has_class[inside]
            labels = known.argmax(axis=1) if one_class else known.astype(int)
            search.fit(embeddings[inside].astype(np.float64), labels)
        scores = _class_scores(search.best_estimator_, embeddings[clips], has_class.shape[1])
        (setting,) = search.best_params_.values()
        score = _score(scores, has_class[clips], one_class)
        folds.append(Fold(held_out, clips, score, setting, scores))
    return Probe(name, "accuracy" if one_class else "mAP", folds)


def _check_groups(groups: Sequence[str], held_out: str, training: Sequence[str]) -> None:
    for group in (held_out, *training):
        if group not in set(groups):
            raise InputError(f"no clip is in {quoted(group)}; choose other folds or splits")
    if held_out in training:
        raise InputError(f"{quoted(held_out)} is held out and trained on; choose other splits")
    if not training:
        raise InputError(f"no clips but {quoted(held_out)} are there to train on; add another fold")


def _inner_folds(
    has_class: Bool[np.ndarray, "clips classes"], groups: np.ndarray, one_class: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns indices of clips to train on and to score, of each fold of the training clips."""
    from sklearn.model_selection import KFold, LeaveOneGroupOut, StratifiedKFold

    labels = has_class.argmax(axis=1)
    if len(groups) < INNER_FOLDS:
        raise InputError(f"{len(groups)} clips are too few to train on; give {INNER_FOLDS} or more")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        if len(set(groups)) > 1:
            inner = list(LeaveOneGroupOut().split(labels, groups=groups))
        else:
            stratified = one_class and np.bincount(labels).max() >= INNER_FOLDS
            folds = StratifiedKFold if stratified else KFold
            inner = list(folds(INNER_FOLDS, shuffle=True, random_state=0).split(labels, labels))
    if one_class and any(len(set(labels[training])) < 2 for training, _ in inner):
        raise InputError("the clips of a training fold have one class only; give other folds")
    return inner


def _search(
    name: str, inner: list[tuple[np.ndarray, np.ndarray]], num_classes: int, one_class: bool
) -> Any:
    """Returns the search for the best setting of a probe."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    if name == "logistic regression":
        logistic = LogisticRegression(max_iter=1000)
        estimator: Any = logistic if one_class else OneVsRestClassifier(logistic)
        settings: dict[str, Sequence[float]] = {
            "probe__C" if one_class else "probe__estimator__C": REGULARIZATION
        }
    else:
        # Its scores are the share of neighbors that have a class, weighted by their closeness.
        neighbors = KNeighborsClassifier if one_class else KNeighborsRegressor
        estimator = neighbors(weights="distance")
        fewest = min(len(training) for training, _ in inner)
        settings = {"probe__n_neighbors": tuple(n for n in NEIGHBORS if n <= fewest)}

    def score(fitted: Any, embeddings: np.ndarray, labels: np.ndarray) -> float:
        has_class = np.eye(num_classes)[labels] if one_class else labels
        return _score(_class_scores(fitted, embeddings, num_classes), has_class, one_class)

    pipeline = Pipeline([("scale", StandardScaler()), ("probe", estimator)])
    return GridSearchCV(pipeline, settings, scoring=score, cv=inner, error_score="raise")


def _class_scores(fitted: Any, embeddings: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns float32 (clips, classes), 0 for classes that no training clip has."""
    if not hasattr(fitted, "predict_proba"):  # a regression of targets
        return fitted.predict(embeddings).astype(np.float32)
    found = fitted.predict_proba(embeddings)
    if found.shape[1] == num_classes:
        return found.astype(np.float32)
    scores = np.zeros((len(found), num_classes), np.float32)
    scores[:, fitted.classes_] = found
    return scores


def _score(scores: np.ndarray, has_class: np.ndarray, one_class: bool) -> float:
    """Computes the accuracy, or the mean over classes with clips of the average precision."""
    if one_class:
        return accuracy(scores, has_class)
    precisions = per_class_metrics(scores, has_class).average_precision
    return float(np.nanmean(precisions)) if np.isfinite(precisions).any() else 0.0
