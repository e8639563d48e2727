"""A run from its configuration to a trained checkpoint."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from ast_jax.audio.augment import noise, roll, spec_augment
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint import Checkpoint, describe
from ast_jax.config import TrainConfig
from ast_jax.data.batches import Batch, EvaluationBatches, Inputs, TrainBatches
from ast_jax.data.clips import DataSet
from ast_jax.data.datasets import load_data
from ast_jax.data.order import steps_per_epoch
from ast_jax.data.pipeline import stream
from ast_jax.data.statistics import measure
from ast_jax.data.synthetic import write_unseen
from ast_jax.errors import InputError
from ast_jax.inference.load import find_checkpoint, read_checkpoint
from ast_jax.models.ast import graphdef, init_params
from ast_jax.models.config import GEOMETRY
from ast_jax.training import report, step
from ast_jax.training.checkpoint import (
    Progress,
    RunCheckpoints,
    check_data,
    claim_workdir,
    open_workdir,
)
from ast_jax.training.metrics import Scores, confusion_matrix, evaluate_scores
from ast_jax.training.optimizer import make_optimizer
from ast_jax.training.parallel import DataParallel
from ast_jax.training.progress import EpochBar

LOSSES = {
    "cross_entropy": step.cross_entropy,
    "binary_cross_entropy": step.binary_cross_entropy,
}


DIVERGED = (
    "{}: training diverged; lower --config.optimizer.learning_rate, and give another "
    "--config.workdir if this one holds checkpoints"
)


def fit(config: TrainConfig) -> Scores:
    """Trains as `config` says, or goes on with a run that was cut off.

    `workdir` then holds `checkpoints/`, which `ast_jax.load(workdir)` takes, `history.json`,
    `loss.png` and `confusion.png`.

    Returns:
        The metrics of the held-out clips after the last epoch.

    Raises:
        InputError: a field, a recording or the folder cannot be used, or the loss diverged.
    """
    config.validate()
    if jax.process_count() > 1:
        raise InputError("this trains on the devices of one process; start one process only")
    console = Console(soft_wrap=True)
    parallel = DataParallel(config.parallel)
    parallel.check_batch(config.batch_size)
    workdir, run = open_workdir(config)
    data = load_data(config)
    if len(data.train.waveforms) < config.batch_size:
        raise InputError(
            f"batch_size is {config.batch_size} and there are {len(data.train.waveforms)} "
            f"training clips; lower --config.batch_size"
        )
    epoch_steps = steps_per_epoch(len(data.train.waveforms), config.batch_size)
    num_steps = epoch_steps * config.num_epochs
    if config.optimizer.warmup_steps >= num_steps:
        raise InputError(
            f"optimizer.warmup_steps is {config.optimizer.warmup_steps} and the run has "
            f"{num_steps} steps; lower --config.optimizer.warmup_steps"
        )
    if run is None:
        extractor = make_extractor(config, data)
    else:
        check_data(workdir, run, data)
        extractor = ASTFeatureExtractor.from_dict(run["feature_extractor"], str(workdir))
    start = initial_checkpoint(config, data, extractor)
    console.print(
        f"{len(data.train.waveforms)} clips to train on, {len(data.evaluation.waveforms)} held "
        f"out, {len(data.labels)} classes; {_size(start.params):,} parameters, "
        f"{start.config.num_tokens} tokens; devices: {len(parallel.devices)} "
        f"{jax.default_backend()}"
    )

    optimizer = make_optimizer(config.optimizer, num_steps)
    graph, loss = graphdef(start.config), LOSSES[config.loss]
    on_device = config.frontend.on_device
    inputs = step.make_device_inputs(extractor) if on_device else step.host_inputs
    gradient_fn = step.make_gradient_fn(graph, loss, make_augment(config, extractor), inputs)
    train_step = parallel.map(
        step.make_train_step(gradient_fn, optimizer, jax.random.key(config.seed)),
        split=(False, True),
        donate=(0,),
    )
    predict = parallel.map(step.make_predict(graph, inputs), split=(False, True), split_result=True)

    def evaluate(params: step.Params) -> tuple[Scores, np.ndarray]:
        batches = EvaluationBatches(
            data.evaluation, Inputs(extractor, on_device), config.batch_size
        )
        made = stream(batches, range(len(batches)), config.data.workers)
        logits = predict_all(predict, params, made, parallel)
        if not np.isfinite(logits).all():
            raise InputError(DIVERGED.format("the model's output is not finite"))
        targets = data.evaluation.all_targets()
        value = float(loss(jnp.asarray(logits), jnp.asarray(targets)))
        return evaluate_scores(logits, targets, value), logits

    state = parallel.replicate(step.init_state(start.params, optimizer))
    with run_checkpoints(workdir, run, config, data, start) as checkpoints:
        state, progress = checkpoints.restore(state)
        if progress.epochs:
            done = progress.epochs == config.num_epochs
            console.print(f"{'finished' if done else 'going on'} after epoch {progress.epochs}")
        make_batch = TrainBatches(
            data.train,
            Inputs(extractor, on_device),
            seed=config.seed,
            batch_size=config.batch_size,
            mixup=config.augment.mixup,
            balanced=config.data.balanced,
        )
        batches = stream(make_batch, range(int(state.step), num_steps), config.data.workers)
        losses: list[float] = []
        results = None
        with EpochBar(console, config.num_epochs) as bar:
            for epoch in range(progress.epochs + 1, config.num_epochs + 1):
                bar.start(epoch, epoch_steps)
                state, epoch_losses = train_epoch(
                    train_step,
                    state,
                    islice(batches, epoch_steps),
                    parallel,
                    lambda loss: bar.step(loss, config.batch_size),
                )
                losses += epoch_losses
                rate = bar.end()
                if epoch % config.evaluate_every and epoch < config.num_epochs:
                    continue
                results = evaluate(state.params)
                row = {"epoch": epoch, "training_loss": float(np.mean(losses))}
                row |= results[0]._asdict()
                progress = Progress(epoch, [*progress.history, row])
                losses = []
                checkpoints.save(state, progress)
                console.print(_line(row, config.num_epochs, rate))
        scores, logits = results or evaluate(state.params)
    write_report(workdir, config, data, progress.history, logits, console)
    return scores


@contextmanager
def run_checkpoints(
    workdir: Path,
    run: dict[str, Any] | None,
    config: TrainConfig,
    data: DataSet,
    start: Checkpoint,
) -> Iterator[RunCheckpoints]:
    """The run's checkpoints; whatever ends the run, those begun are finished.

    A new run that ends before its first checkpoint leaves no folder behind.
    """
    extractor = start.feature_extractor
    new_folder = not workdir.exists()
    if run is None:
        claim_workdir(workdir, config, data, extractor)
    checkpoints = RunCheckpoints(workdir, describe(start.config, extractor))
    try:
        yield checkpoints
    finally:
        checkpoints.close()
        if run is None and not find_checkpoint(workdir):
            shutil.rmtree(workdir)
            if not new_folder:
                workdir.mkdir()


def make_extractor(config: TrainConfig, data: DataSet) -> ASTFeatureExtractor:
    """The configuration's frontend; a mean or std it leaves open is the training clips'.

    `ast-jax stats` measures a prepared set's once; others are measured here.
    """
    mean, std = config.frontend.mean, config.frontend.std
    if mean is None or std is None:
        bins = config.model.num_mel_bins
        measured = data.statistics.get(bins)
        if measured is None:
            # What is read from disk is too much for one core; what is in memory is little.
            on_disk = data.train.samples is not None
            if on_disk:
                Console().print("measuring all log-mels; ast-jax stats does it once and for all")
            measured = measure(
                data.train,
                data.labels,
                config.frontend.sampling_rate,
                bins,
                processes=(os.cpu_count() or 1) if on_disk else 1,
            )[:2]
        mean = measured[0] if mean is None else mean
        std = measured[1] if std is None else std
    return ASTFeatureExtractor(
        sampling_rate=config.frontend.sampling_rate,
        num_mel_bins=config.model.num_mel_bins,
        max_length=config.model.max_length,
        mean=mean,
        std=std,
    )


def initial_checkpoint(
    config: TrainConfig, data: DataSet, extractor: ASTFeatureExtractor
) -> Checkpoint:
    """What training starts from: random parameters, or `init_from` with the data's classes.

    Raises:
        InputError: `init_from` cannot be used, or is of another size than the model.
    """
    kind = "single" if config.loss == "cross_entropy" else "multi"
    changes: dict[str, Any] = {
        "id2label": dict(enumerate(data.labels)),
        "num_labels": len(data.labels),
        "problem_type": f"{kind}_label_classification",
    }
    if not config.init_from:
        model = config.model.replace(**changes)
        return Checkpoint(model, extractor, init_params(model, config.seed))
    for name in (*GEOMETRY, "dtype"):
        changes[name] = getattr(config.model, name)
    source = read_checkpoint(config.init_from, head_seed=config.seed, **changes)
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size"):
        found, wanted = getattr(source.config, name), getattr(config.model, name)
        if found != wanted:
            raise InputError(
                f"{config.init_from}: has {name} {found} and the configuration {wanted}; set "
                f"--config.model.{name}={found}"
            )
    return source._replace(feature_extractor=extractor)


def make_augment(config: TrainConfig, extractor: ASTFeatureExtractor) -> step.Augment:
    """The configuration's augmentation as a function of (key, input values)."""

    def augment(key: jax.Array, input_values: jax.Array) -> jax.Array:
        mask_key, noise_key, roll_key = jax.random.split(key, 3)
        masked = spec_augment(
            mask_key,
            input_values,
            frequency_mask=config.augment.frequency_mask,
            time_mask=config.augment.time_mask,
            fill=-extractor.mean / (2 * extractor.std),
        )
        noisy = noise(noise_key, masked) if config.augment.noise else masked
        return roll(roll_key, noisy, config.augment.roll)

    return augment


def train_epoch(
    train_step: Callable,
    state: step.TrainState,
    batches: Iterable[Batch],
    parallel: DataParallel,
    on_loss: Callable[[float], None],
) -> tuple[step.TrainState, list[float]]:
    """Takes a step for each batch and tells `on_loss` of each step's loss, as it returns them.

    A loss is read once the next step is under way, so that the devices need not wait.

    Raises:
        InputError: a loss is not a finite number.
    """
    losses: list[float] = []

    def read(pending: jax.Array) -> None:
        losses.append(float(pending))
        if not math.isfinite(losses[-1]):
            raise InputError(DIVERGED.format(f"the loss is {losses[-1]}"))
        on_loss(losses[-1])

    pending = None
    for batch in batches:
        state, loss = train_step(state, parallel.put(batch))
        if pending is not None:
            read(pending)
        pending = loss
    if pending is not None:
        read(pending)
    return state, losses


def predict_all(
    predict: Callable, params: step.Params, batches: Iterator[Batch], parallel: DataParallel
) -> np.ndarray:
    """Logits (clips, classes) of evaluation batches, without the clips that fill up the last."""
    logits = []
    for batch in batches:
        values = np.asarray(predict(params, parallel.put(batch)))
        logits.append(values[batch["mask"] > 0])
    return np.concatenate(logits)


def write_report(
    workdir: Path,
    config: TrainConfig,
    data: DataSet,
    history: report.History,
    logits: np.ndarray,
    console: Console,
) -> None:
    """Prints the results and writes them to the run's folder, with two pictures."""
    (workdir / "history.json").write_text(json.dumps(history, indent=2) + "\n", encoding="utf-8")
    report.print_table(console, history)
    report.draw_loss(history, workdir / "loss.png")
    matrix = confusion_matrix(logits, data.evaluation.all_targets())
    report.draw_confusion(matrix, data.labels, workdir / "confusion.png")
    sounds = "FILE..."
    if config.data.kind == "synthetic":
        write_unseen(workdir / "unseen", config.seed)
        sounds = f"{config.workdir}/unseen/*.wav"
    console.print(f"loss.png, confusion.png and checkpoints are in {config.workdir}")
    console.print(f"to use it: ast-jax classify {sounds} --checkpoint {config.workdir}")


def _line(row: dict[str, Any], num_epochs: int, rate: float) -> str:
    return (
        f"epoch {row['epoch']}/{num_epochs}: training loss {row['training_loss']:.4f}, held out: "
        f"loss {row['loss']:.4f}, accuracy {row['accuracy']:.1%}, "
        f"mAP {row['mean_average_precision']:.3f} ({rate:.1f} clips/s)"
    )


def _size(params: step.Params) -> int:
    return sum(array.size for array in jax.tree.leaves(params))
