"""Evaluates checkpoints on labeled recordings, one by one and as an ensemble."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint
from ast_jax.checkpoint.load import read_checkpoint
from ast_jax.data.batches import EvaluationBatches, InputBuilder
from ast_jax.data.clips import Clips
from ast_jax.data.loader import stream
from ast_jax.data.overlap import overlap_note, read_trained_clips
from ast_jax.errors import InputError, quoted
from ast_jax.evaluation.evaluation_set import (
    EvaluationSet,
    add_missing_classes,
    check_disjoint,
    read_evaluation_set,
    read_holdout,
)
from ast_jax.evaluation.metrics import (
    ClassMetrics,
    Metrics,
    compute_metrics,
    per_class_metrics,
    ranking_scores,
)
from ast_jax.evaluation.predict import make_predict, predict_batches
from ast_jax.losses import criterion_of, probabilities
from ast_jax.models.ast import graphdef, round_kernels
from ast_jax.models.attention import resolve_attn_implementation
from ast_jax.models.config import ASTConfig
from ast_jax.sharding import REPLICATED, SPLIT, DataParallel


class Evaluation(NamedTuple):
    """Predictions and metrics of one model or an ensemble.

    Attributes:
        probabilities: float32 (clips, classes), in the order of the data's classes.
        metrics: of a model, as in training, or of an ensemble's mean probabilities.
        per_class: the same by class.
        logits: of a model, float32 (clips, classes); None for an ensemble.
    """

    probabilities: np.ndarray
    metrics: Metrics
    per_class: ClassMetrics
    logits: np.ndarray | None = None


class Results(NamedTuple):
    """Evaluations of several checkpoints on one set.

    Attributes:
        data: the set.
        evaluations: by the path of the checkpoint.
        ensemble: of all checkpoints together; None for a single one.
        unnamed: checkpoints without class names, which are assumed to be in the data's order.
        guesses: by the path of the checkpoint, see `read_checkpoint`.
        trained: by the path of a checkpoint of a run: a sentence with the number of clips that it
            was trained on.
        problem_type: of the checkpoints.
        tuning: the same of the clips to choose thresholds on, see `tune`; None for none.
    """

    data: EvaluationSet
    evaluations: dict[str, Evaluation]
    ensemble: Evaluation | None
    unnamed: list[str]
    guesses: Mapping[str, list[str]] = MappingProxyType({})
    trained: Mapping[str, str] = MappingProxyType({})
    problem_type: str = ""
    tuning: "Results | None" = None


def evaluate_checkpoints(
    paths: Sequence[str],
    folder: str | Path,
    *,
    name: str = "",
    split: str = "",
    tuning_split: str = "",
    batch_size: int = 32,
    workers: int = 0,
    on_device: bool = False,
    **changes: Any,
) -> Results:
    """Evaluates checkpoints one after another; only one is in memory at a time.

    `paths` are checkpoints that `read_checkpoint` takes, and `changes` fields of their `ASTConfig`
    to change, such as `dtype="bfloat16"`. `tuning_split` is another split to evaluate on, for the
    results' `tuning`. Other arguments are those of `evaluate` and `read_evaluation_set`.

    Raises:
        InputError: a checkpoint or the data cannot be used, or they do not match. This is
            checked for all checkpoints before the first is evaluated.
    """
    if not paths:
        raise InputError("no checkpoint is given; name one or more")
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise InputError("a checkpoint is given twice; give each of them once")
    # Each is read twice, so that a mismatch is known at once and not after hours of evaluation.
    guesses: dict[str, list[str]] = {str(path): [] for path in paths}
    described = {
        path: read_checkpoint(path, changes, guesses=found)[:2] for path, found in guesses.items()
    }
    problem_type = _common_problem_type({path: config for path, (config, _) in described.items()})
    rate = next(extractor.sampling_rate for _, extractor in described.values())
    holdout = read_holdout(paths)
    data = read_evaluation_set(folder, rate, split=split, name=name, holdout=holdout)
    sets = [data]
    if tuning_split:
        check_disjoint(data, tuning_split)
        sets.append(
            read_evaluation_set(folder, rate, split=tuning_split, name=name, holdout=holdout)
        )
    config, _ = next(iter(described.values()))
    if config.id2label is not None:
        sets = [add_missing_classes(data, config.labels) for data in sets]
    for path, (config, extractor) in described.items():
        match_classes(config, extractor, sets[0].labels, data.sampling_rate, path)
    records = {path: read_trained_clips(path) for path in described}
    unnamed = [path for path, (config, _) in described.items() if config.id2label is None]

    def evaluate_all(data: EvaluationSet) -> Results:
        trained = {
            path: overlap_note(data.clips, hashes) for path, hashes in records.items() if hashes
        }
        evaluations = {
            path: evaluate(
                read_checkpoint(path, changes, guesses=[]),  # they are those of the first reading
                data.clips,
                data.labels,
                data.sampling_rate,
                batch_size=batch_size,
                workers=workers,
                on_device=on_device,
                source=path,
                what=f"evaluating checkpoint {number} of {len(described)}",
            )
            for number, path in enumerate(described, start=1)
        }
        ensembled = None
        if len(evaluations) > 1:
            members = [evaluation.probabilities for evaluation in evaluations.values()]
            ensembled = ensemble(members, data.clips.all_targets(), problem_type)
        return Results(
            data, evaluations, ensembled, unnamed, guesses, trained, problem_type=problem_type
        )

    results, *tuning = map(evaluate_all, sets)
    return results._replace(tuning=tuning[0]) if tuning else results


def _common_problem_type(configs: Mapping[str, ASTConfig]) -> str:
    """Returns the problem type of checkpoints.

    Raises:
        InputError: one is frame-level, or they have several types.
    """
    for path, config in configs.items():
        if config.frame_level:
            raise InputError(
                f"{path}: is frame-level; evaluate it on a list of events, a .csv or .tsv of "
                f"filename, start, end and label"
            )
    kinds = {config.problem_type: path for path, config in configs.items()}
    if len(kinds) > 1:
        (one, first), (another, second) = kinds.items()
        raise InputError(
            f"{first} is for {one} and {second} for {another}, whose probabilities cannot be "
            f"averaged; evaluate them separately"
        )
    return next(iter(kinds))


def evaluate(
    checkpoint: Checkpoint,
    clips: Clips,
    labels: Sequence[str],
    sampling_rate: int,
    *,
    batch_size: int = 32,
    workers: int = 0,
    on_device: bool = False,
    source: str = "the checkpoint",
    what: str = "evaluating",
) -> Evaluation:
    """Evaluates a checkpoint on each clip once, over all local devices.

    Args:
        checkpoint: has the clips' classes, in any order.
        clips: to evaluate on.
        labels: class names of the clips.
        sampling_rate: of the clips, in Hz.
        batch_size: rounded up to a multiple of the number of devices.
        workers: processes that make batches; 0 uses threads.
        on_device: compute log-mels on the accelerator, from int16 waveforms.
        source: path of the checkpoint, for messages.
        what: title of the progress bar.

    Raises:
        InputError: classes or sampling rates differ, a clip cannot be used, or the model's
            output is not finite.
    """
    config, extractor, _ = checkpoint
    columns = match_classes(config, extractor, labels, sampling_rate, source)
    logits = predict_checkpoint(checkpoint, clips, batch_size, workers, on_device, what)[:, columns]
    if not np.isfinite(logits).all():
        raise InputError(
            f"{source}: the model's output is not finite: parameters are NaN, or so large that it "
            f"overflows; use another checkpoint, or correct the mean and std of its extractor"
        )
    targets = clips.all_targets()
    criterion = criterion_of(config.problem_type)
    loss = float(criterion(jnp.asarray(logits), jnp.asarray(targets)))
    scores = ranking_scores(config.problem_type, logits)
    per_class = per_class_metrics(scores, targets)
    return Evaluation(
        probabilities(config.problem_type, logits),
        compute_metrics(scores, targets, loss, per_class),
        per_class,
        logits,
    )


def predict_checkpoint(
    checkpoint: Checkpoint,
    clips: Clips,
    batch_size: int,
    workers: int,
    on_device: bool,
    what: str,
) -> np.ndarray:
    """Returns float32 logits (clips, classes), in the model's order of classes."""
    config, extractor, params = checkpoint
    parallel = DataParallel(devices=jax.local_devices())
    devices = len(parallel.devices)
    # A set smaller than a batch would be padded with repeated clips.
    batch_size = -(-min(batch_size, len(clips.waveforms)) // devices) * devices
    graph = graphdef(
        config, attn_implementation=resolve_attn_implementation(config, parallel.devices)
    )
    mapped = parallel.map(make_predict(graph, extractor), (REPLICATED, SPLIT), result=SPLIT)
    params = parallel.device_put(round_kernels(config, params))
    inputs = InputBuilder(extractor, on_device, config.mask_padding)
    batches = EvaluationBatches(clips, inputs, batch_size)
    console = Console(stderr=True)
    with closing(stream(batches, range(len(batches)), workers)) as stream_of_batches:
        shown = track(
            stream_of_batches,
            what,
            len(batches),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        return predict_batches(mapped, parallel, params, shown, len(clips.waveforms))


def match_classes(
    config: ASTConfig,
    extractor: ASTFeatureExtractor,
    labels: Sequence[str],
    sampling_rate: int,
    source: str,
) -> list[int]:
    """Returns the index of the model's output for each class of the data, matched by name.

    Outputs of a model without class names are assumed to be in the data's order.

    Raises:
        InputError: classes or sampling rates differ; the message begins with `source`.
    """
    if extractor.sampling_rate != sampling_rate:
        raise InputError(
            f"{source}: takes sound at {extractor.sampling_rate} Hz and the clips are at "
            f"{sampling_rate} Hz; prepare them with --sampling-rate {extractor.sampling_rate}, "
            f"and evaluate checkpoints of one rate at a time"
        )
    if config.id2label is None:
        if config.num_labels != len(labels):
            raise InputError(
                f"{source}: has {config.num_labels} classes without names and the data has "
                f"{len(labels)}; give a checkpoint of the data's classes"
            )
        return list(range(len(labels)))
    for label in Counter(labels) - Counter(config.labels):
        raise InputError(
            f"{source}: has no class {quoted(label)}, and the data has; give a checkpoint and "
            f"data of the same classes"
        )
    for label in Counter(config.labels) - Counter(labels):
        raise InputError(
            f"{source}: has a class {quoted(label)} that the data or another checkpoint lacks; "
            f"give checkpoints and data of the same classes"
        )
    index = {label: i for i, label in enumerate(config.labels)}
    return [index[label] for label in labels]


def ensemble(
    probabilities: Sequence[np.ndarray], targets: np.ndarray, problem_type: str
) -> Evaluation:
    """Evaluates the mean of several models' probabilities.

    Args:
        probabilities: (clips, classes) of each model.
        targets: (clips, classes).
        problem_type: of the models; decides the loss.
    """
    mean = np.asarray(np.mean(probabilities, axis=0, dtype=np.float64))
    # Clip as float32 does: to `tiny` near 0, and to 1 - `epsneg` near 1.
    limits = np.finfo(np.float32)
    loss = -(targets * np.log(np.maximum(mean, limits.tiny)))
    if problem_type == "single_label_classification":
        value = loss.sum(axis=1).mean()
    else:
        value = (loss - (1 - targets) * np.log(np.maximum(1 - mean, limits.epsneg))).mean()
    per_class = per_class_metrics(mean, targets)
    return Evaluation(
        np.asarray(mean, np.float32),
        compute_metrics(mean, targets, float(value), per_class),
        per_class,
    )
