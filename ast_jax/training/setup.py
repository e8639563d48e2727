"""What a run is made of, from its configuration, before the first step."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from ast_jax.audio.augment import noise, roll, spec_augment
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint
from ast_jax.checkpoint.load import read_checkpoint
from ast_jax.config import TrainConfig
from ast_jax.data.batches import EvaluationBatches, Inputs, TrainBatches
from ast_jax.data.clips import Clips, DataSet
from ast_jax.data.sampler import steps_per_epoch
from ast_jax.data.statistics import measure
from ast_jax.errors import InputError
from ast_jax.models.ast import graphdef, init_params
from ast_jax.models.config import GEOMETRY
from ast_jax.models.patchout import sample_patchout
from ast_jax.sharding import REPLICATED, SPLIT, DataParallel
from ast_jax.training import step
from ast_jax.training.optimizer import make_optimizer, make_schedule, state_specs

LOSSES = {
    "cross_entropy": step.cross_entropy,
    "binary_cross_entropy": step.binary_cross_entropy,
}


class Length(NamedTuple):
    """How long a run is, in steps."""

    epoch: int
    run: int


def check_clips(config: TrainConfig, clips: int) -> None:
    """Raises `InputError` if there are fewer clips to train on than a batch takes."""
    if clips < config.batch_size:
        raise InputError(
            f"batch_size is {config.batch_size} and there are {clips} training clips; lower "
            f"--config.batch_size"
        )


def measure_length(config: TrainConfig, clips: int) -> Length:
    """The steps of an epoch of so many clips, and of the run.

    Raises:
        InputError: there are fewer clips than a batch takes, or fewer steps than the warm-up.
    """
    check_clips(config, clips)
    epoch = steps_per_epoch(clips, config.batch_size)
    steps = epoch * config.num_epochs
    # The original's staircase may end later than a small run of its recipe.
    if config.optimizer.schedule != "multi_step" and config.optimizer.warmup_steps >= steps:
        raise InputError(
            f"optimizer.warmup_steps is {config.optimizer.warmup_steps} and the run has "
            f"{steps} steps; set --config.optimizer.warmup_steps={steps // 10} or so, or train on "
            f"more clips or for more epochs"
        )
    return Length(epoch, steps)


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
                Console(quiet=jax.process_index() > 0).print(
                    "measuring all log-mels; ast-jax stats does it once and for all"
                )
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
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")
    found = {name: getattr(source.config, name) for name in names}
    found = {name: value for name, value in found.items() if value != getattr(config.model, name)}
    if found:
        raise InputError(
            f"{config.init_from}: has "
            + " and ".join(
                f"{name} {value} where the configuration has {getattr(config.model, name)}"
                for name, value in found.items()
            )
            + "; set "
            + " ".join(f"--config.model.{name}={value}" for name, value in found.items())
        )
    return source._replace(feature_extractor=extractor)


def make_augment(config: TrainConfig, extractor: ASTFeatureExtractor) -> step.Augment:
    """The configuration's augmentation of clips: (keys (clips,), input values) → the latter."""

    def augment(key: jax.Array, clip: jax.Array) -> jax.Array:
        mask_key, noise_key, roll_key = jax.random.split(key, 3)
        masked = spec_augment(
            mask_key,
            clip[None],
            frequency_mask=config.augment.frequency_mask,
            time_mask=config.augment.time_mask,
            fill=-extractor.mean / (2 * extractor.std),
        )
        noisy = noise(noise_key, masked) if config.augment.noise else masked
        return roll(roll_key, noisy, config.augment.roll)[0]

    return jax.vmap(augment)


def make_patchout(config: TrainConfig) -> step.Patchout | None:
    """The configuration's Patchout: keys (clips,) → the patches kept of each clip; None for all."""
    rows, columns = config.augment.patchout_frequency, config.augment.patchout_time
    if not rows and not columns:
        return None

    def patchout(key: jax.Array) -> jax.Array:
        # A key beside those that `make_augment` splits the clip's into.
        return sample_patchout(jax.random.fold_in(key, 3), config.model.grid, rows, columns)

    return jax.vmap(patchout)


def make_inputs(config: TrainConfig, extractor: ASTFeatureExtractor) -> step.Inputs:
    """What makes a batch the model's input where the step runs."""
    return step.make_device_inputs(extractor) if config.frontend.on_device else step.host_inputs


def train_batches(
    config: TrainConfig, clips: Clips, extractor: ASTFeatureExtractor
) -> TrainBatches:
    """This process's part of the batch of each training step."""
    return TrainBatches(
        clips,
        Inputs(extractor, config.frontend.on_device),
        seed=config.seed,
        batch_size=config.batch_size,
        mixup=config.augment.mixup,
        balanced=config.data.balanced,
        process=jax.process_index(),
        processes=jax.process_count(),
    )


def evaluation_batches(
    config: TrainConfig, clips: Clips, extractor: ASTFeatureExtractor
) -> EvaluationBatches:
    """This process's part of each batch of clips held out."""
    return EvaluationBatches(
        clips,
        Inputs(extractor, config.frontend.on_device),
        config.batch_size,
        process=jax.process_index(),
        processes=jax.process_count(),
    )


class Compiled(NamedTuple):
    """The functions that run on the devices, and the state before the first step.

    Attributes:
        train_step: (state, batch) → the next state and `StepMetrics`; the state is given up.
        predict: (parameters, batch) → logits, split over the devices.
        add_to_average: (average, parameters, n) → the average with the n-th parameters.
        loss: (logits, targets) → the criterion, without label smoothing.
        state: on the devices.
    """

    train_step: Any
    predict: Any
    add_to_average: Any
    loss: step.Loss
    state: step.TrainState


def make_functions(
    config: TrainConfig, start: Checkpoint, parallel: DataParallel, length: Length
) -> Compiled:
    """Maps the step over the devices and lays the state out on them."""
    extractor, graph, loss = start.feature_extractor, graphdef(start.config), LOSSES[config.loss]
    inputs = make_inputs(config, extractor)
    split = len(parallel.devices) if config.shard_optimizer else 1
    optimizer = make_optimizer(config.optimizer, split)
    gradient_fn = step.make_gradient_fn(
        graph,
        step.smoothed(loss, config.label_smoothing),
        make_augment(config, extractor),
        inputs,
        config.accumulate,
        make_patchout(config),
        config.remat,
    )
    train_step = step.make_train_step(
        gradient_fn,
        optimizer,
        make_schedule(config.optimizer, length.run, length.epoch),
        jax.random.key(config.seed),
        config.optimizer.ema_decay,
    )
    state = step.init_state(
        start.params,
        optimizer,
        ema=config.optimizer.ema_decay > 0,
        average=config.average_from > 0,
    )
    specs: Any = REPLICATED
    if split > 1:
        whole = jax.tree.map(lambda _: REPLICATED, state)
        specs = whole._replace(opt_state=state_specs(state.opt_state, split))
    return Compiled(
        parallel.map(train_step, (specs, SPLIT), (specs, REPLICATED), donate=(0,)),
        parallel.map(step.make_predict(graph, inputs), (REPLICATED, SPLIT), SPLIT),
        jax.jit(add_to_average, donate_argnums=0),
        loss,
        parallel.device_put(state, specs),
    )


class Run(NamedTuple):
    """All that stays the same while a run goes on."""

    config: TrainConfig
    workdir: Path
    data: DataSet
    start: Checkpoint
    parallel: DataParallel
    length: Length
    compiled: Compiled
    console: Console


def add_to_average(average: step.Params, params: step.Params, count: jax.Array) -> step.Params:
    """The mean of `count` parameters, from that of those before and the last."""
    return jax.tree.map(lambda mean, last: mean + (last - mean) / count, average, params)


def parameter_count(params: step.Params) -> int:
    """How many numbers the parameters are."""
    return int(sum(np.prod(array.shape) for array in jax.tree.leaves(params)))
