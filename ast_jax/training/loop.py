"""Trains a model from a configuration."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import checkpoint_description
from ast_jax.checkpoint.load import fetch_checkpoint
from ast_jax.config import TrainConfig
from ast_jax.data.batches import trim
from ast_jax.data.checks import check_targets, data_notes
from ast_jax.data.clips import DataSet
from ast_jax.data.loader import stream
from ast_jax.data.overlap import hash_clips
from ast_jax.data.own import read_own_data
from ast_jax.data.training_data import load_data
from ast_jax.errors import InputError, quoted
from ast_jax.losses import Loss
from ast_jax.multihost import call_on_first
from ast_jax.runs.history import History, best_epoch, read_history
from ast_jax.runs.logging import ScalarWriter
from ast_jax.runs.progress import EpochBar, run_console
from ast_jax.runs.workdir import acquire_workdir, check_data, keep_holdout, open_workdir
from ast_jax.sharding import DataParallel
from ast_jax.training.agreement import check_agreement
from ast_jax.training.checkpointing import RunCheckpoints
from ast_jax.training.finalize import finalize
from ast_jax.training.held_out import evaluate_epoch
from ast_jax.training.initial import initial_checkpoint, make_extractor
from ast_jax.training.metrics_log import MetricsLog
from ast_jax.training.overrides import (
    NO_OVERRIDES,
    AugmentClip,
    Callback,
    FitResult,
    Overrides,
)
from ast_jax.training.preemption import PreemptionHandler
from ast_jax.training.setup import (
    Run,
    build_step_functions,
    make_evaluation_batches,
    make_train_batches,
    print_overview,
    run_length,
)
from ast_jax.training.step import Params, TrainState

POLL_STEPS = 10  # steps between checks across a pod's processes for a requested stop


def fit(
    config: TrainConfig,
    *,
    data: DataSet | Mapping[str, Any] | None = None,
    loss: Loss | None = None,
    augment: AugmentClip | None = None,
    optimizer: optax.GradientTransformation | None = None,
    callbacks: Sequence[Callback] = (),
    devices: Sequence[jax.Device] | None = None,
) -> FitResult:
    """Trains as `config` says, or resumes an interrupted run.

    Afterwards `workdir` holds `model/`, which `ast_jax.load(workdir)` takes, `history.json`,
    `results.json` and pictures of both.

    Args:
        config: the experiment.
        data: your own recordings instead of those that `config.data` names, see `read_own_data`.
        loss: replaces `config.loss` in training and in the loss of held-out clips: (logits,
            targets), both (batch, classes), → the mean loss. `config.loss` still decides between
            softmax and sigmoid.
        augment: replaces SpecAugment, noise and shift of `config.augment`: (key, input values
            (frames, mel_bins) of a clip) → input values. It is traced by `jax.vmap` and `jax.jit`.
        optimizer: replaces `config.optimizer`, learning rate included.
        callbacks: hooks that are called after steps, after evaluations and at the end.
        devices: to train on; all by default.

    Raises:
        InputError: a field, a recording or the folder cannot be used, or training diverged.
        KeyboardInterrupt: SIGINT or SIGTERM was received; progress is saved.
    """
    overrides = Overrides(loss, augment, optimizer, callbacks)
    run, state = set_up(config, data, devices, overrides)
    print_overview(run)
    with acquire_workdir(
        run.workdir,
        run.saved_run,
        run.config,
        run.data,
        run.train_hashes,
        run.initial.feature_extractor,
        run.override_names,
    ):
        result = train(run, state)
        for callback in callbacks:
            callback.on_end(result)
        return result


def set_up(
    config: TrainConfig,
    data: DataSet | Mapping[str, Any] | None = None,
    devices: Sequence[jax.Device] | None = None,
    overrides: Overrides = NO_OVERRIDES,
) -> tuple[Run, TrainState]:
    """Loads the data and builds the model and the step; returns the run and its initial state.

    Arguments and errors are those of `fit`.
    """
    if not isinstance(config, TrainConfig):
        raise InputError(f"config is {quoted(config)}; give a TrainConfig, see `load_config`")
    config.validate()
    overrides.check()
    parallel = DataParallel(config.parallel, devices)
    parallel.check_batch(config.batch_size, config.grad_accum_steps)
    override_names = overrides.names(config.model)
    workdir, saved_run = open_workdir(config, override_names)
    console = run_console()
    given, config = config, keep_holdout(config, saved_run)
    if data is None and config != given:
        console.print(
            "note: the run is of an earlier version and keeps its held-out files: data.stratify "
            "and data.recursive are False"
        )

    if config.init_from:
        fetch_checkpoint(config.init_from)  # reports a wrong path before the data is read
    if data is None:
        data = load_data(config)
    elif not isinstance(data, DataSet):
        data = read_own_data(data, config.frontend.sampling_rate)
    check_agreement(config, data)
    if saved_run is None:  # earlier versions accepted what is refused now
        check_targets(config, data)
    train_hashes = hash_clips(data.train)
    if jax.process_index() == 0:
        for note in data_notes(config, data, train_hashes):
            console.print(f"note: {note}")
    length = run_length(config, len(data.train.waveforms))
    if saved_run is None:
        extractor = make_extractor(config, data)
    else:
        check_data(workdir, saved_run, data)
        extractor = ASTFeatureExtractor.from_dict(saved_run["feature_extractor"], str(workdir))

    initial = initial_checkpoint(config, data, extractor)
    trained = replace(config, model=initial.config)  # with the size of `init_from`
    trained.validate()
    overrides.check_shapes(initial.config)
    functions, state = build_step_functions(trained, initial, parallel, length, overrides)
    run = Run(
        config=config,
        workdir=workdir,
        saved_run=saved_run,
        data=data,
        train_hashes=train_hashes,
        initial=initial,
        parallel=parallel,
        length=length,
        functions=functions,
        train_batches=make_train_batches(config, data.train, extractor),
        evaluation_batches=partial(make_evaluation_batches, config, extractor=extractor),
        console=console,
        overrides=overrides,
        override_names=override_names,
    )
    return run, state


def train(run: Run, state: TrainState) -> FitResult:
    """Takes the remaining steps from the newest checkpoint, or from `state`; writes the result."""
    config = run.config
    steps_per_epoch, num_steps = run.length
    history: History = []
    with (
        RunCheckpoints(
            run.workdir / "checkpoints",
            checkpoint_description(run.initial.config, run.initial.feature_extractor),
            config.max_to_keep,
            best_step=lambda: best_step(run, history),
            note=run.console.print,
        ) as checkpoints,
        PreemptionHandler() as preemption,
        nullcontext()
        if jax.process_index()
        else ScalarWriter(run.workdir / "tensorboard") as scalars,
        EpochBar(run.console, config.num_epochs) as bar,
        profiler(run) as trace,
    ):

        def stop() -> bool:
            return run.parallel.any_process(preemption.requested)

        log = MetricsLog(run, checkpoints, bar, scalars)
        state, first = restore(run, state, checkpoints, log)
        history += past_evaluations(run, first)
        logits = None
        if is_evaluated(run, first, history):
            log.reset_loss()  # the history has it
        elif is_evaluation_due(run, first):
            # The run was interrupted between its checkpoint and its evaluation.
            logits = evaluate_epoch(run, first, state, history, log, stop)

        steps = range(first, num_steps)
        with closing(stream(run.train_batches, steps, config.data.workers)) as batches:
            for step in steps:
                epoch, step_in_epoch = divmod(step, steps_per_epoch)
                if step == first or step_in_epoch == 0:
                    log.start_epoch(epoch, step_in_epoch)
                trace(step - first, state)
                began = time.perf_counter()
                batch = trim(next(batches))
                log.add_wait(time.perf_counter() - began)
                log.note_shape(batch)
                state, metrics = run.functions.train_step(state, run.parallel.shard_batch(batch))
                log.add(step, metrics)  # reads those of the step before, now that this one runs

                done = step + 1
                if done % steps_per_epoch == 0:
                    log.end_epoch()
                    state = average_epoch(run, epoch + 1, state)
                evaluate = is_evaluation_due(run, done)
                stopping = is_stop_requested(done, stop)
                if evaluate or stopping or is_checkpoint_due(run, done):
                    log.flush()
                    checkpoints.save(done, run.parallel.to_host(state), log.running_loss)
                if stopping:
                    raise KeyboardInterrupt
                if evaluate:
                    logits = evaluate_epoch(run, done, state, history, log, stop)

        params = select_final_params(run, state, history, checkpoints)
        if stop():
            raise KeyboardInterrupt
    scores = finalize(run, params, history, logits if config.final_params == "last" else None)
    return FitResult(scores, run.workdir / "model", history)


def restore(
    run: Run, state: TrainState, checkpoints: RunCheckpoints, log: MetricsLog
) -> tuple[TrainState, int]:
    """Returns the newest checkpoint's state and step, and `state` and 0 if there is none."""
    restored = checkpoints.restore(state)
    if restored is None:
        return state, 0
    jax.tree.map(lambda array: array.delete(), state)  # the memory of a second state
    saved_state, log.running_loss = restored
    step, num_steps = int(saved_state.step), run.length.num_steps
    what = "finished" if step == num_steps else "resuming"
    run.console.print(f"{what} after step {step} of {num_steps}")
    return run.parallel.device_put(saved_state, run.functions.state_specs), step


def past_evaluations(run: Run, step: int) -> History:
    """Returns the history up to a step."""
    steps_per_epoch = run.length.steps_per_epoch
    history = call_on_first(lambda: read_history(run.workdir, step, steps_per_epoch))
    if history and not is_evaluation_due(run, history[-1]["epoch"] * steps_per_epoch):
        del history[-1]  # it was of the end, before num_epochs grew
    return history


def is_evaluation_due(run: Run, step: int) -> bool:
    """Returns whether the run evaluates after `step` steps."""
    epoch, step_in_epoch = divmod(step, run.length.steps_per_epoch)
    at_end = step == run.length.num_steps
    return step > 0 and step_in_epoch == 0 and (epoch % run.config.evaluate_every == 0 or at_end)


def is_evaluated(run: Run, step: int, history: History) -> bool:
    """Returns whether the newest row of the history is of the epoch that ends with `step`."""
    return bool(history) and history[-1]["epoch"] * run.length.steps_per_epoch == step


def is_checkpoint_due(run: Run, step: int) -> bool:
    """Returns whether `checkpoint_every_steps` divides `step`."""
    every = run.config.checkpoint_every_steps
    return every > 0 and step % every == 0


def is_stop_requested(step: int, stop: Callable[[], bool]) -> bool:
    """Returns whether any process was asked to stop; all get the same answer at a step.

    In a pod this is a collective that waits for the step, so it runs every `POLL_STEPS` steps.
    """
    return (jax.process_count() == 1 or step % POLL_STEPS == 0) and stop()


def average_epoch(run: Run, epoch: int, state: TrainState) -> TrainState:
    """Adds the parameters after an epoch from `average_from` to `average_to` to the average."""
    first, last = run.config.average_from, run.config.average_to or run.config.num_epochs
    if not first or not first <= epoch <= last:
        return state
    average = run.functions.update_average(
        state.average, state.eval_params, np.float32(epoch - first + 1)
    )
    return state._replace(average=average)


def best_step(run: Run, history: History) -> int | None:
    """Returns the step of the best evaluation so far; None before any."""
    epoch = best_epoch(history, run.config.metric)
    return None if epoch is None else epoch * run.length.steps_per_epoch


def select_final_params(
    run: Run, state: TrainState, history: History, checkpoints: RunCheckpoints
) -> Params:
    """Returns the parameters that the run results in."""
    if run.config.final_params == "average" and state.average is not None:
        return state.average
    best = best_step(run, history)
    if run.config.final_params == "last" or best in (None, run.length.num_steps):
        return state.eval_params
    checkpoints.wait()
    restored = checkpoints.restore(state, best)
    assert restored is not None
    return run.parallel.device_put(restored[0].eval_params)


@contextmanager
def profiler(run: Run) -> Iterator[Callable[[int, TrainState], None]]:
    """Yields a function to call before each step, which traces `profile_steps` of them.

    The first step, which compiles, and the second, which may, are left out.
    """
    active = False

    def before_step(steps_taken: int, state: TrainState) -> None:
        nonlocal active
        if steps_taken == 2:
            jax.profiler.start_trace(run.workdir / "profile")
            active = True
        elif active and steps_taken == 2 + run.config.profile_steps:
            jax.block_until_ready(state.step)  # or the last step's end is missing
            jax.profiler.stop_trace()
            active = False

    try:
        yield (
            before_step if run.config.profile_steps and not jax.process_index() else lambda *_: None
        )
    finally:
        if active:
            jax.profiler.stop_trace()
