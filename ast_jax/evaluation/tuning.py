"""Tunes a checkpoint's decisions on some clips, and scores them on others."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from ast_jax.errors import InputError, one_line, quoted
from ast_jax.evaluation.calibration import (
    Reliability,
    fit_platt,
    fit_temperature,
    has_both_outcomes,
    reliability,
)
from ast_jax.evaluation.checkpoints import Results
from ast_jax.evaluation.choose_thresholds import check_min_precision, choose_thresholds
from ast_jax.evaluation.metrics import (
    AverageMetrics,
    ClassificationMetrics,
    average_metrics,
    classification_metrics,
    predicted_classes,
)
from ast_jax.losses import criterion_of, probabilities
from ast_jax.models.config import ASTConfig
from ast_jax.thresholds import Calibration, Thresholds

FOLDS = 5


class TuningOptions(NamedTuple):
    """The options for choosing thresholds.

    Attributes:
        min_precision: the precision that each threshold must reach; None for the best F1.
        calibration: how probabilities are calibrated before; None for the model's own.
    """

    min_precision: float | None = None
    calibration: Literal["temperature", "platt"] | None = None

    def check(self, problem_type: str) -> None:
        """Raises InputError if they cannot be used for models of a problem type."""
        check_min_precision(self.min_precision)
        if self.calibration == "platt" and problem_type == "single_label_classification":
            raise InputError(
                "Platt scaling fits each class by itself, and the probabilities of a single-label "
                "model sum to 1; calibrate it by temperature"
            )


class Tuned(NamedTuple):
    """Thresholds, and the metrics of the decisions that they make.

    Attributes:
        thresholds: chosen on all clips that there are to choose on.
        cross_fitted: whether these are the evaluated clips, see `cross_fit`.
        chosen: metrics by class on the clips that the thresholds were chosen on.
        per_class: metrics by class on the evaluated clips.
        average: the same over all classes.
        default: those of decisions without thresholds: for the most probable class, or for all with
            a probability of 0.5 or more if clips may have several.
        uncalibrated: reliability of the model's probabilities on the evaluated clips.
        calibrated: that of the calibrated ones; None without calibration.
        calibrated_loss: the training criterion of these; None without calibration.
        notes: sentences about classes without a threshold or calibration.
    """

    thresholds: Thresholds
    cross_fitted: bool
    chosen: ClassificationMetrics
    per_class: ClassificationMetrics
    average: AverageMetrics
    default: AverageMetrics
    uncalibrated: Reliability
    calibrated: Reliability | None
    calibrated_loss: float | None
    notes: Sequence[str]


def tune(results: Results, options: TuningOptions) -> Tuned:
    """Chooses thresholds of a checkpoint, and scores them on clips they were not chosen on.

    Args:
        results: of one checkpoint. The thresholds are chosen on the clips of `results.tuning`; if
            it is None, on the evaluated ones, which are scored as `cross_fit` does.
        options: what to choose.

    Raises:
        InputError: the options do not suit the model, the clips are too few, or a calibration
            cannot be fitted.
    """
    problem_type = results.problem_type
    options.check(problem_type)
    source = results.tuning or results
    ((path, evaluation),) = results.evaluations.items()
    targets, logits = results.data.clips.all_targets(), evaluation.logits
    source_targets, source_logits = source.data.clips.all_targets(), source.evaluations[path].logits
    assert logits is not None  # which only an ensemble lacks
    assert source_logits is not None

    calibration, values = choose(problem_type, options, source_logits, source_targets)
    labels = results.data.labels
    if path in results.unnamed:  # the file is for the model, which numbers its classes
        labels = ASTConfig(num_labels=len(labels)).labels
    thresholds = Thresholds(
        labels,
        values,
        calibration if options.calibration else None,
        _criterion(options),
        one_line(
            f"{path} on {source.data.folder}, {source.data.split}: {len(source_targets)} clips"
        ),
    )
    notes = _notes(thresholds, options, source_targets)
    if results.tuning:
        calibrated, used = calibration.rescale(logits), values
    else:
        calibrated, used = cross_fit(problem_type, options, logits, targets)
        if some := np.flatnonzero((np.isinf(used) & np.isfinite(values)).any(axis=0)).tolist():
            notes.append(
                f"no threshold for {_count(some, labels)}, when a fifth of the clips is left out: "
                f"never detected there"
            )
    scores = probabilities(problem_type, calibrated)
    source_scores = probabilities(problem_type, calibration.rescale(source_logits))
    tuned = Tuned(
        thresholds,
        cross_fitted=results.tuning is None,
        chosen=classification_metrics(source_scores >= values, source_targets),
        per_class=classification_metrics(scores >= used, targets),
        average=average_metrics(scores >= used, targets),
        default=average_metrics(predicted_classes(problem_type, logits), targets),
        uncalibrated=reliability(problem_type, evaluation.probabilities, targets),
        calibrated=None,
        calibrated_loss=None,
        notes=notes,
    )
    if not options.calibration:
        return tuned
    criterion = criterion_of(problem_type)
    return tuned._replace(
        calibrated=reliability(problem_type, scores, targets),
        calibrated_loss=float(criterion(jnp.asarray(calibrated), jnp.asarray(targets))),
    )


def choose(
    problem_type: str, options: TuningOptions, logits: np.ndarray, targets: np.ndarray
) -> tuple[Calibration, np.ndarray]:
    """Returns the calibration, of scale 1 and bias 0 for none, and the thresholds (classes,).

    Args:
        problem_type: of the model.
        options: what to choose.
        logits: float32 (clips, classes).
        targets: (clips, classes).

    Raises:
        InputError: a calibration cannot be fitted.
    """
    calibration = Calibration(1.0, 0.0)
    if options.calibration == "temperature":
        calibration = fit_temperature(problem_type, logits, targets)
    elif options.calibration == "platt":
        calibration = fit_platt(logits, targets)
    scores = probabilities(problem_type, calibration.rescale(logits))
    return calibration, choose_thresholds(scores, targets, options.min_precision)


def cross_fit(
    problem_type: str, options: TuningOptions, logits: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gives each fifth of the clips the calibration and thresholds that are chosen on the others.

    Arguments are those of `choose`.

    Returns:
        Calibrated logits and thresholds, both (clips, classes).

    Raises:
        InputError: there are too few clips, or a calibration cannot be fitted.
    """
    if len(logits) < FOLDS:
        raise InputError(
            f"{len(logits)} clips are too few to choose thresholds on some and score them on "
            f"others; use more clips, or name another split to choose on"
        )
    calibrated, values = np.empty_like(logits), np.empty(logits.shape)
    folds = divide(targets)
    for fold in range(FOLDS):
        held, rest = folds == fold, folds != fold
        calibration, values[held] = choose(problem_type, options, logits[rest], targets[rest])
        calibrated[held] = calibration.rescale(logits[held])
    return calibrated, values


def divide(targets: np.ndarray) -> np.ndarray:
    """Divides clips into `FOLDS` folds of one size, in which each class is about as frequent.

    The clips of each class are dealt to the folds in turn, in an order that is random and always
    the same. A clip of several classes is dealt with those of its rarest.

    Args:
        targets: (clips, classes); positive where a clip has the class.

    Returns:
        int64 (clips,), the fold of each clip from 0.
    """
    has_class = targets > 0
    rarest = np.where(has_class, has_class.sum(axis=0), np.inf).argmin(axis=1)
    rarest[~has_class.any(axis=1)] = -1
    order = np.random.default_rng(0).permutation(len(targets))
    order = order[np.argsort(rarest[order], kind="stable")]
    numbers = np.empty(len(targets), np.int64)
    numbers[order] = np.arange(len(targets)) % FOLDS
    return numbers


def _criterion(options: TuningOptions) -> str:
    if options.min_precision is None:
        return "best F1"
    return f"lowest threshold with a precision of at least {options.min_precision:g}"


def _notes(thresholds: Thresholds, options: TuningOptions, targets: np.ndarray) -> list[str]:
    """Returns sentences about classes that nothing could be chosen for."""
    absent = ~(targets > 0).any(axis=0)
    unreached = np.isinf(thresholds.values) & ~absent
    uncalibrated = ~has_both_outcomes(targets) & (options.calibration == "platt")
    scale = thresholds.calibration.scale if thresholds.calibration else 1.0
    falling = np.broadcast_to(scale, absent.shape) < 0
    notes = []
    for chosen, what, effect in (
        (absent, "no clips to choose a threshold on", "never detected"),
        (unreached, f"no precision of {options.min_precision}", "never detected"),
        (uncalibrated, "no clips with it, or none without it", "not calibrated"),
        (
            falling,
            "negative Platt scale",
            "detected by low logits, as the model ranks these clips worse than chance",
        ),
    ):
        if some := np.flatnonzero(chosen).tolist():
            notes.append(f"{what} for {_count(some, thresholds.labels)}: {effect}")
    return notes


def _count(some: Sequence[int], labels: Sequence[str]) -> str:
    return f"{len(some)} of {len(labels)} classes, such as {quoted(labels[some[0]])}"
