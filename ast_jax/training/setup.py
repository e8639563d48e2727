"""Builds what a run consists of, before the first step."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.console import Console

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint
from ast_jax.config import TrainConfig
from ast_jax.data.batches import EvaluationBatches, InputBuilder, TrainBatches
from ast_jax.data.buckets import make_buckets
from ast_jax.data.clips import Clips, DataSet
from ast_jax.data.overlap import ClipHashes
from ast_jax.data.sampler import steps_per_epoch
from ast_jax.errors import InputError
from ast_jax.evaluation.predict import make_predict
from ast_jax.losses import LOSSES, with_label_smoothing
from ast_jax.models.ast import graphdef
from ast_jax.models.attention import TPU_MAX_TOKENS, resolve_attn_implementation
from ast_jax.runs.workdir import is_extended
from ast_jax.sharding import REPLICATED, SPLIT, DataParallel
from ast_jax.training.optimizer import make_optimizer, make_schedule, state_specs
from ast_jax.training.overrides import NO_OVERRIDES, AugmentClip, Overrides
from ast_jax.training.step import (
    Augment,
    Params,
    StepSpec,
    TrainState,
    init_state,
    make_augment,
    make_patchout,
    train_step,
)


class RunLength(NamedTuple):
    """The length of a run in steps."""

    steps_per_epoch: int
    num_steps: int


def run_length(config: TrainConfig, clips: int) -> RunLength:
    """Returns the length of a run over so many training clips.

    Raises:
        InputError: the clips do not fill a batch, or the warm-up is longer than the run.
    """
    check_clips(config, clips)
    per_epoch = steps_per_epoch(clips, config.batch_size)
    steps = per_epoch * config.num_epochs
    # The original's multi-step schedule may outlast a small run of its recipe.
    if config.optimizer.schedule != "multi_step" and config.optimizer.warmup_steps >= steps:
        raise InputError(
            f"optimizer.warmup_steps is {config.optimizer.warmup_steps} and the run has "
            f"{steps} steps; set optimizer.warmup_steps={steps // 10} or so, or train on "
            f"more clips or for more epochs"
        )
    return RunLength(per_epoch, steps)


def check_clips(config: TrainConfig, clips: int) -> None:
    """Raises `InputError` if there are fewer training clips than a batch takes."""
    if clips < config.batch_size:
        raise InputError(
            f"batch_size is {config.batch_size} and there are {clips} training clips; lower "
            f"batch_size"
        )


def make_train_batches(
    config: TrainConfig, clips: Clips, extractor: ASTFeatureExtractor
) -> TrainBatches:
    """Returns this process's share of each training batch, by step."""
    model, buckets = config.model, None
    if config.length_buckets > 1:
        buckets = make_buckets(
            model.max_length, model.patch_size, model.time_stride, config.length_buckets
        )
    return TrainBatches(
        clips,
        InputBuilder(extractor, config.frontend.on_device, model.mask_padding),
        seed=config.seed,
        batch_size=config.batch_size,
        mixup=config.augment.mixup,
        balanced=config.data.balanced,
        process=jax.process_index(),
        processes=jax.process_count(),
        buckets=buckets,
    )


def make_evaluation_batches(
    config: TrainConfig, clips: Clips, extractor: ASTFeatureExtractor
) -> EvaluationBatches:
    """Returns this process's share of each evaluation batch."""
    return EvaluationBatches(
        clips,
        InputBuilder(extractor, config.frontend.on_device, config.model.mask_padding),
        config.batch_size,
        process=jax.process_index(),
        processes=jax.process_count(),
    )


class StepFunctions(NamedTuple):
    """The functions that run on the devices.

    Attributes:
        train_step: (state, batch) → the next state and `StepMetrics`; donates the state.
        predict: (params, batch) → logits, split over the devices.
        update_average: (average, params, n) → the average that includes the n-th params.
        init_state: params → the state before the first step, on the default device.
        state_specs: `REPLICATED`, or the sharding of each array of the state.
    """

    train_step: Any
    predict: Any
    update_average: Any
    init_state: Callable[[Params], TrainState]
    state_specs: Any


def build_step_functions(
    config: TrainConfig,
    initial: Checkpoint,
    parallel: DataParallel,
    length: RunLength,
    overrides: Overrides = NO_OVERRIDES,
) -> tuple[StepFunctions, TrainState]:
    """Returns the functions that run on the devices, and the initial state there."""
    functions = map_step_functions(config, initial, parallel, length, overrides)
    state = functions.init_state(initial.params)
    return functions, parallel.device_put(state, functions.state_specs)


def map_step_functions(
    config: TrainConfig,
    initial: Checkpoint,
    parallel: DataParallel,
    length: RunLength,
    overrides: Overrides = NO_OVERRIDES,
) -> StepFunctions:
    """Maps the step functions over devices.

    To compile for devices that are not there, `initial` needs only the shapes of parameters.
    """
    model, extractor = initial.config, initial.feature_extractor
    graph = graphdef(
        model, attn_implementation=resolve_attn_implementation(model, parallel.devices)
    )
    shards = len(parallel.devices) if config.shard_optimizer else 1
    optimizer = make_optimizer(config.optimizer, shards)
    schedule = make_schedule(config.optimizer, length.num_steps, length.steps_per_epoch)
    if overrides.optimizer is not None:
        if shards > 1:
            raise InputError(
                "shard_optimizer shards the configured optimizer only; set it to False"
            )
        # The step subtracts updates times a rate.
        optimizer = optax.chain(overrides.optimizer, optax.scale(-1))
        schedule = optax.constant_schedule(1.0)
    augment = make_augment(config.augment, extractor)
    if overrides.augment is not None:
        augment = map_augment(overrides.augment)
    spec = StepSpec(
        graphdef=graph,
        extractor=extractor,
        loss=overrides.loss or with_label_smoothing(LOSSES[config.loss], config.label_smoothing),
        optimizer=optimizer,
        schedule=schedule,
        key=jax.random.key(config.seed),
        augment=augment,
        patchout=make_patchout(config.augment, model),
        grad_accum_steps=config.grad_accum_steps,
        num_shards=shards,
        remat=config.remat,
        exchange_by_layer=should_exchange_by_layer(config, parallel),
        unroll=should_unroll(config, parallel),
        ema_decay=config.optimizer.ema_decay,
    )
    initialize = partial(
        init_state,
        optimizer=optimizer,
        ema=config.optimizer.ema_decay > 0,
        average=config.average_from > 0,
    )
    specs: Any = REPLICATED
    if shards > 1:
        state = jax.eval_shape(initialize, initial.params)
        specs = jax.tree.map(lambda _: REPLICATED, state)
        specs = specs._replace(opt_state=state_specs(state.opt_state, shards))
    return StepFunctions(
        train_step=parallel.map(
            partial(train_step, spec), (specs, SPLIT), (specs, REPLICATED), donate=(0,)
        ),
        predict=parallel.map(make_predict(graph, extractor), (REPLICATED, SPLIT), SPLIT),
        update_average=jax.jit(update_average, donate_argnums=0),
        init_state=initialize,
        state_specs=specs,
    )


def map_augment(augment_clip: AugmentClip) -> Augment:
    """Returns an augmentation of batches from one's own of a clip, which does not know padding."""
    augment_clips = jax.vmap(augment_clip)
    return lambda keys, clips, num_frames: augment_clips(keys, clips)


def should_exchange_by_layer(config: TrainConfig, parallel: DataParallel) -> bool:
    """Returns whether gradients are exchanged in the backward pass: on several TPUs.

    XLA's GPU compiler overlaps nothing with an exchange in the loop over layers, and microbatches
    would exchange once each.
    """
    return (
        parallel.overlaps_exchange and config.grad_accum_steps == 1 and not config.shard_optimizer
    )


def should_unroll(config: TrainConfig, parallel: DataParallel) -> bool:
    """Returns whether the training step's loop over layers is unrolled: on a single TPU.

    An eighth of its step is copies into and out of the loop's stacks of residuals and gradients.
    Unrolled, base384 compiles in 224 instead of 46 s, for 16 chips in 7 minutes of CPU time. With
    remat 'everything', or without the TPU kernel for attention, XLA would merge what the forward
    and the backward pass both compute, and save it; a loop prevents that.
    """
    uses_kernel = (
        resolve_attn_implementation(config.model, parallel.devices) == "tpu"
        and config.model.num_tokens <= TPU_MAX_TOKENS
    )
    return uses_kernel and len(parallel.devices) == 1 and config.remat != "everything"


def update_average(average: Any, params: Any, count: jax.Array) -> Any:
    """Returns the mean of `count` parameters, from the mean of the earlier ones and the last."""
    return jax.tree.map(lambda mean, last: mean + (last - mean) / count, average, params)


class Run(NamedTuple):
    """The constants of a run.

    Attributes:
        config: the experiment.
        workdir: its folder.
        saved_run: content of the folder's run.json; None for a new run.
        data: the recordings.
        train_hashes: of the training clips.
        initial: what training starts from.
        parallel: the devices.
        length: in steps.
        functions: that run on the devices.
        train_batches: step → this process's share of its batch.
        evaluation_batches: clips → this process's share of their batches.
        console: prints in the first process alone.
        overrides: of the step, and hooks.
        override_names: the names of the former, for the run's record.
    """

    config: TrainConfig
    workdir: Path
    saved_run: dict[str, Any] | None
    data: DataSet
    train_hashes: ClipHashes
    initial: Checkpoint
    parallel: DataParallel
    length: RunLength
    functions: StepFunctions
    train_batches: TrainBatches
    evaluation_batches: Callable[[Clips], EvaluationBatches]
    console: Console
    overrides: Overrides
    override_names: dict[str, str]


def print_overview(run: Run) -> None:
    """Prints the size of the data, the parameters by module, and the devices."""
    data, params = run.data, run.initial.params
    modules = params["ast"] | {"classifier": params["classifier"]}
    counts = {name: parameter_count(module) for name, module in modules.items()}
    run.console.print(
        f"{len(data.train.waveforms)} clips to train on, {len(data.evaluation.waveforms)} held "
        f"out, {len(data.labels)} classes; {sum(counts.values()):,} parameters "
        f"({', '.join(f'{name} {count:,}' for name, count in counts.items())}); "
        f"{run.initial.config.num_tokens} tokens; devices: {len(run.parallel.devices)} "
        f"{run.parallel.devices[0].platform}"
    )
    if run.saved_run is not None and is_extended(run.saved_run, run.config):
        run.console.print(f"note: {extension_note(run.saved_run, run.config)}")


def extension_note(saved_run: dict[str, Any], config: TrainConfig) -> str:
    """Returns a sentence about a run that gets more epochs than it had."""
    before, now = saved_run["config"]["num_epochs"], config.num_epochs
    if config.optimizer.schedule == "cosine":
        return (
            f"num_epochs grew from {before} to {now}: the learning rate goes on as in a cosine of "
            f"{now} epochs, higher than it ended, and the result is not that of a run of {now} "
            f"epochs from the start"
        )
    return f"num_epochs grew from {before} to {now}: the run goes on as if it had had {now}"


def parameter_count(params: Params) -> int:
    """Returns the number of scalars in the parameters."""
    return int(sum(np.prod(array.shape) for array in jax.tree.leaves(params)))
