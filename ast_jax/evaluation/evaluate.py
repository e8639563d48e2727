"""How good checkpoints are on a set of recordings, each by itself and all together."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint
from ast_jax.checkpoint.load import read_checkpoint
from ast_jax.data.batches import EvaluationBatches, Inputs
from ast_jax.data.clips import Clips
from ast_jax.data.loader import stream
from ast_jax.errors import InputError, quoted
from ast_jax.evaluation.evaluation_set import EvaluationSet, read_evaluation_set
from ast_jax.evaluation.metrics import ClassMetrics, Metrics, compute_metrics, per_class_metrics
from ast_jax.evaluation.predict import predict_batches
from ast_jax.models.ast import computing_params, graphdef
from ast_jax.models.config import ASTConfig
from ast_jax.sharding import REPLICATED, SPLIT, DataParallel
from ast_jax.training import step


class Evaluation(NamedTuple):
    """What a model, or several together, made of clips.

    Attributes:
        probabilities: float32 (clips, classes), in the order of the data's classes.
        scores: of a model by its logits, as in training; of several by their mean probabilities.
        by_class: of the same.
    """

    probabilities: np.ndarray
    scores: Metrics
    by_class: ClassMetrics


class Results(NamedTuple):
    """What several checkpoints made of one set.

    Attributes:
        data: the set.
        evaluations: of each checkpoint, by its path.
        ensemble: of all of them together, or None of one.
        unnamed: checkpoints that do not name their classes, taken to be in the data's order.
    """

    data: EvaluationSet
    evaluations: dict[str, Evaluation]
    ensemble: Evaluation | None
    unnamed: list[str]


def evaluate_checkpoints(
    paths: Sequence[str],
    folder: str | Path,
    *,
    name: str = "",
    split: str = "",
    batch_size: int = 32,
    workers: int = 0,
    on_device: bool = False,
    **changes: Any,
) -> Results:
    """Evaluates checkpoints one after another; no two of them are in memory at a time.

    Args:
        paths: any that `read_checkpoint` takes.
        folder: see `read_evaluation_set`, as are `name` and `split`.
        name: of a prepared set.
        split: the clips to evaluate on.
        batch_size: see `evaluate`, as are `workers` and `on_device`.
        workers: processes that make batches.
        on_device: whether log-mels are computed on the accelerator.
        **changes: fields of the checkpoints' `ASTConfig` to change, such as `dtype="int8"`.

    Raises:
        InputError: a checkpoint, the data, or both together cannot be used. Nothing is
            evaluated before all of them are known to fit.
    """
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise InputError("a checkpoint is given twice; give each of them once")
    # Read here for what they say of themselves and once more below: seconds, where an
    # evaluation that ends at its last checkpoint may have taken hours.
    described = {str(path): read_checkpoint(path, **changes)[:2] for path in paths}
    kinds = {config.problem_type: path for path, (config, _) in described.items()}
    if len(kinds) > 1:
        (one, first), (another, second) = kinds.items()
        raise InputError(
            f"{first} is for {one} and {second} for {another}, whose probabilities have no "
            f"mean; evaluate them apart"
        )
    rate = next(extractor.sampling_rate for _, extractor in described.values())
    data = read_evaluation_set(folder, rate, split=split, name=name)
    for path, (config, extractor) in described.items():
        match_classes(config, extractor, data.labels, data.sampling_rate, path)
    evaluations = {
        path: evaluate(
            read_checkpoint(path, **changes),
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
    together = None
    if len(evaluations) > 1:
        probabilities = [evaluation.probabilities for evaluation in evaluations.values()]
        together = ensemble(probabilities, data.clips.all_targets(), next(iter(kinds)))
    unnamed = [path for path, (config, _) in described.items() if config.id2label is None]
    return Results(data, evaluations, together, unnamed)


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
    """What a checkpoint makes of clips, every one of them once, over all local devices.

    Args:
        checkpoint: with the clips' classes, in any order.
        clips: those to evaluate on.
        labels: the names of their classes.
        sampling_rate: of the clips, in Hz.
        batch_size: clips at a time; rounded up to a multiple of the devices.
        workers: how many processes make batches; 0 for threads of this one.
        on_device: whether log-mels are computed on the accelerator, from int16 waveforms.
        source: where the checkpoint is from, for messages.
        what: what a terminal's progress bar says.

    Raises:
        InputError: classes or sampling rates differ, a clip cannot be used, or the model's
            output is not finite.
    """
    config, extractor, _ = checkpoint
    columns = match_classes(config, extractor, labels, sampling_rate, source)
    logits = predict(checkpoint, clips, batch_size, workers, on_device, what)[:, columns]
    if not np.isfinite(logits).all():
        raise InputError(
            f"{source}: the model's output is not finite, so that the checkpoint must be damaged; "
            f"use another"
        )
    targets = clips.all_targets()
    single = config.problem_type == "single_label_classification"
    criterion = step.cross_entropy if single else step.binary_cross_entropy
    loss = float(criterion(jnp.asarray(logits), jnp.asarray(targets)))
    by_class = per_class_metrics(logits, targets)
    return Evaluation(
        step.probabilities(config.problem_type, logits),
        compute_metrics(logits, targets, loss, by_class),
        by_class,
    )


def predict(
    checkpoint: Checkpoint,
    clips: Clips,
    batch_size: int,
    workers: int,
    on_device: bool,
    what: str,
) -> np.ndarray:
    """The model's logits, float32 (clips, classes), in its own order of classes."""
    config, extractor, params = checkpoint
    parallel = DataParallel(devices=jax.local_devices())
    devices = len(parallel.devices)
    # No larger than it need be: a set of few clips would be computed many times over.
    batch_size = -(-min(batch_size, len(clips.waveforms)) // devices) * devices
    inputs = step.make_device_inputs(extractor) if on_device else step.host_inputs
    mapped = parallel.map(
        step.make_predict(graphdef(config), inputs), (REPLICATED, SPLIT), result=SPLIT
    )
    params = parallel.device_put(computing_params(config, params))
    batches = EvaluationBatches(clips, Inputs(extractor, on_device), batch_size)
    console = Console(stderr=True)
    with closing(stream(batches, range(len(batches)), workers)) as made:
        shown = track(
            made,
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
    """Which of a model's outputs is each class of the data, matched by name.

    Those of a model that does not name its classes are taken as they come.

    Raises:
        InputError: classes or sampling rates differ; `source` says where the model is from.
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
            f"{source}: has a class {quoted(label)}, and the data has not; give a checkpoint and "
            f"data of the same classes"
        )
    index = {label: i for i, label in enumerate(config.labels)}
    return [index[label] for label in labels]


def ensemble(
    probabilities: Sequence[np.ndarray], targets: np.ndarray, problem_type: str
) -> Evaluation:
    """Several models together: the mean of their probabilities.

    Args:
        probabilities: (clips, classes) of each model.
        targets: (clips, classes).
        problem_type: of the models, which says how the loss is calculated.
    """
    mean = np.asarray(np.mean(probabilities, axis=0, dtype=np.float64))
    # float32 has numbers near 0, and none between 1 and 1 - epsneg.
    limits = np.finfo(np.float32)
    loss = -(targets * np.log(np.maximum(mean, limits.tiny)))
    if problem_type == "single_label_classification":
        value = loss.sum(axis=1).mean()
    else:
        value = (loss - (1 - targets) * np.log(np.maximum(1 - mean, limits.epsneg))).mean()
    by_class = per_class_metrics(mean, targets)
    return Evaluation(
        np.asarray(mean, np.float32),
        compute_metrics(mean, targets, float(value), by_class),
        by_class,
    )
