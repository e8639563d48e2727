"""A run from its configuration to a trained model."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass

import jax
import numpy as np
from rich.console import Console

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import describe
from ast_jax.config import TrainConfig
from ast_jax.data.batches import Batch, TrainBatches
from ast_jax.data.clips import classes_without
from ast_jax.data.loader import stream
from ast_jax.data.training_data import load_data
from ast_jax.errors import InputError
from ast_jax.evaluation.metrics import Metrics
from ast_jax.evaluation.predict import cumulative_scores, predict_all, score
from ast_jax.runs.logging import ScalarWriter
from ast_jax.runs.plots import History, describe_scores, format_number, write_history
from ast_jax.runs.progress import EpochBar
from ast_jax.runs.workdir import acquire_workdir, check_data, open_workdir, read_history
from ast_jax.sharding import DataParallel
from ast_jax.training import step
from ast_jax.training.checkpointing import Progress, RunCheckpoints
from ast_jax.training.finalize import finish
from ast_jax.training.preemption import PreemptionHandler
from ast_jax.training.setup import (
    Run,
    initial_checkpoint,
    make_extractor,
    make_functions,
    measure_length,
    parameter_count,
    train_batches,
)

LOG_EVERY = 10  # steps, for TensorBoard


def fit(config: TrainConfig) -> Metrics:
    """Trains as `config` says, or goes on with a run that was cut off.

    `workdir` then holds `model/`, which `ast_jax.load(workdir)` takes, `history.json`,
    `results.json` and pictures of both.

    Returns:
        The metrics of the held-out clips under the run's result.

    Raises:
        InputError: a field, a recording or the folder cannot be used, or training diverged.
        KeyboardInterrupt: SIGINT or SIGTERM came; what was done is saved.
    """
    config.validate()
    quiet = jax.process_index() > 0
    console = Console(soft_wrap=True, markup=False, highlight=False, quiet=quiet)
    parallel = DataParallel(config.parallel)
    parallel.check_batch(config.batch_size, config.accumulate)
    workdir, known = open_workdir(config)
    data = load_data(config)
    length = measure_length(config, len(data.train.waveforms))
    if known is None:
        extractor = make_extractor(config, data)
    else:
        check_data(workdir, known, data)
        extractor = ASTFeatureExtractor.from_dict(known["feature_extractor"], str(workdir))
    start = initial_checkpoint(config, data, extractor)
    console.print(
        f"{len(data.train.waveforms)} clips to train on, {len(data.evaluation.waveforms)} held "
        f"out, {len(data.labels)} classes; {parameter_count(start.params):,} parameters, "
        f"{start.config.num_tokens} tokens; devices: {len(parallel.devices)} "
        f"{jax.default_backend()}"
    )
    for line in classes_without(data):
        console.print(f"note: {line}")
    compiled = make_functions(config, start, parallel, length)
    run = Run(config, workdir, data, start, parallel, length, compiled, console)
    with acquire_workdir(workdir, known, config, data, extractor):
        return train(run)


def train(run: Run) -> Metrics:
    """Takes the steps that are left, and writes down what came of them."""
    history: History = []
    checkpoints = RunCheckpoints(
        run.workdir / "checkpoints",
        describe(run.start.config, run.start.feature_extractor),
        run.config.keep,
        lambda: best_step(run, history),
    )
    with (
        checkpoints,
        PreemptionHandler() as interruption,
        EpochBar(run.console, run.config.num_epochs) as bar,
        _scalars(run) as scalars,
    ):
        state, progress = checkpoints.restore(run.compiled.state)
        taken = int(state.step)
        history += read_history(run.workdir, taken, run.length.epoch)
        if taken:
            jax.tree.map(lambda array: array.delete(), run.compiled.state)  # twice is too much
            done = "finished" if taken == run.length.run else "going on"
            run.console.print(f"{done} after step {taken} of {run.length.run}")
        if history and history[-1]["epoch"] * run.length.epoch == taken:
            progress = Progress(skipped=progress.skipped)  # its losses are in the history
        training = Training(run, checkpoints, interruption, bar, scalars, history, state, progress)
        training.take_steps(taken)
        params = training.result()
        if training.must_end():
            raise KeyboardInterrupt
    return finish(run, params, history, training.logits if run.config.result == "last" else None)


def _scalars(run: Run) -> AbstractContextManager[ScalarWriter | None]:
    return nullcontext() if jax.process_index() else ScalarWriter(run.workdir / "tensorboard")


def best_step(run: Run, history: History) -> int | None:
    """The step of the best evaluation so far, the first of several; None before any."""
    scored = [row for row in history if row[run.config.metric] is not None]
    best = max(scored, key=lambda row: row[run.config.metric], default=None)
    return None if best is None else best["epoch"] * run.length.epoch


def evaluated(state: step.TrainState) -> step.Params:
    """The parameters that are evaluated: their moving average, where there is one."""
    return state.params if state.ema is None else state.ema


@dataclass
class Training:
    """A run under way: what changes from step to step, and where that is told.

    Attributes:
        run: what stays the same.
        checkpoints: of the run.
        interruption: tells when it must end.
        bar: what a person watches.
        scalars: for TensorBoard; the first process has them.
        history: a row for each evaluation.
        state: of the parameters.
        progress: between evaluations.
        logits: of the evaluation after the last step, if it was made here.
        speed: of the last epoch, see `EpochBar.end`; None before one has ended.
        agreed: whether all processes know that they must end.
    """

    run: Run
    checkpoints: RunCheckpoints
    interruption: PreemptionHandler
    bar: EpochBar
    scalars: ScalarWriter | None
    history: History
    state: step.TrainState
    progress: Progress
    logits: np.ndarray | None = None
    speed: tuple[float, float] | None = None
    agreed: bool = False
    _pending: tuple[int, step.StepMetrics] | None = None

    def take_steps(self, taken: int) -> None:
        """Takes the steps after `taken`, evaluating and saving in between.

        Raises:
            InputError: too many steps had a loss or gradient that is not finite.
            KeyboardInterrupt: the run was asked to end, and has saved.
        """
        config, length = self.run.config, self.run.length
        extractor = self.run.start.feature_extractor
        made = train_batches(config, self.run.data.train, extractor)
        with closing(stream(made, range(taken, length.run), config.data.workers)) as batches:
            self._take_steps(taken, made, batches)

    def _take_steps(self, taken: int, made: TrainBatches, batches: Iterator[Batch]) -> None:
        config, length = self.run.config, self.run.length
        begun = False
        while True:
            epoch, place = divmod(taken, length.epoch)
            if self._is_due(taken):
                self._evaluate(epoch)
            if taken == length.run:
                return
            if not (begun and place):
                self.bar.start(epoch + 1, place, length.epoch)
                begun = True
            batch = self.bar.wait(batches)
            if jax.process_count() > 1:
                rows = len(batch["targets"])
                batch = batch | {"stop": np.full(rows, self.interruption.heard, np.float32)}
            self.state, metrics = self.run.compiled.train_step(
                self.state, self.run.parallel.shard_batch(batch)
            )
            self._read_metrics(made)  # the last step's, once this one is under way
            self._pending = taken, metrics
            taken += 1
            if place + 1 == length.epoch:
                self._end_epoch(epoch + 1, made)
            stop = self._is_asked_to_end()
            save = config.save_every and taken % config.save_every == 0
            if stop or save or self._is_due(taken):
                self._read_metrics(made)
                self.checkpoints.save(taken, self.run.parallel.to_global(self.state), self.progress)
            if stop:
                raise KeyboardInterrupt

    def _is_asked_to_end(self) -> bool:
        """Asked after every step, whose metrics bring what the other processes heard."""
        return self.agreed or (self.interruption.heard and jax.process_count() == 1)

    def must_end(self) -> bool:
        """Whether a process was asked to end; between steps, where all of them ask."""
        return self.run.parallel.any_process(self.interruption.heard)

    def _is_due(self, taken: int) -> bool:
        """Whether the run is at the end of an epoch that is to be evaluated and is not yet."""
        epoch, place = divmod(taken, self.run.length.epoch)
        known = bool(self.history) and self.history[-1]["epoch"] == epoch
        due = epoch % self.run.config.evaluate_every == 0 or taken == self.run.length.run
        return taken > 0 and place == 0 and due and not known

    def _read_metrics(self, made: TrainBatches) -> None:
        """Counts the last step, whose metrics were left on the devices."""
        if self._pending is None:
            return
        (number, metrics), self._pending = self._pending, None
        loss, norm, rate, stop = (float(value) for value in metrics)
        self.agreed |= stop > 0
        if math.isfinite(loss) and math.isfinite(norm):
            total, steps, skipped = self.progress
            self.progress = Progress(total + loss, steps + 1, skipped)
        else:
            self.progress = self.progress._replace(skipped=self.progress.skipped + 1)
            self._complain_of(number, "gradient" if math.isfinite(loss) else "loss", made)
        self.bar.step(loss, rate, self.run.config.batch_size)
        if self.scalars and number % LOG_EVERY == 0:
            self.scalars.write(
                number,
                {
                    "training/loss": loss,
                    "training/gradient_norm": norm,
                    "training/learning_rate": rate,
                    "training/clips_per_second": self.bar.rate,
                    "training/waiting_for_data": self.bar.waiting,
                },
            )

    def _complain_of(self, number: int, what: str, made: TrainBatches) -> None:
        """Tells of a step that changed nothing as its numbers were not finite."""
        names = [str(self.run.data.train.names[i]) for i in made.indices(number)]
        clips = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        told = f"step {number}: the {what} is not finite, on the clips {clips}"
        if self.progress.skipped <= self.run.config.skip_nonfinite:
            self.run.console.print(f"{told}; left out")
            return
        good = self.checkpoints.newest()
        raise InputError(
            f"{told}; lower --config.optimizer.learning_rate, mend the clips, or leave such steps "
            f"out with --config.skip_nonfinite={self.progress.skipped + 9} "
            + (
                f"(the last good checkpoint is {good}; another rate wants another --config.workdir)"
                if good
                else "(there is no checkpoint yet)"
            )
        )

    def _end_epoch(self, epoch: int, made: TrainBatches) -> None:
        """Averages the parameters, where this epoch's count."""
        self._read_metrics(made)
        self.speed = self.bar.end()
        first, last = self.run.config.average_from, self.run.config.average_to
        if first and first <= epoch <= (last or self.run.config.num_epochs):
            average = self.run.compiled.add_to_average(
                self.state.average, evaluated(self.state), np.float32(epoch - first + 1)
            )
            self.state = self.state._replace(average=average)

    def _evaluate(self, epoch: int) -> None:
        """Metrics the clips held out, and adds a row to the history."""
        run = self.run
        logits = predict_all(run, evaluated(self.state), run.data.evaluation, self.must_end)
        row = {"epoch": epoch, "training_loss": self.progress.mean_loss}
        row |= score(run, logits, run.data.evaluation)._asdict()
        if run.config.cumulative:
            row |= cumulative_scores(run, epoch, self.history, logits)
        self.history.append(row)
        self.progress = Progress(skipped=self.progress.skipped)
        if epoch == run.config.num_epochs:
            self.logits = logits
        if jax.process_index() == 0:
            write_history(run.workdir, self.history)
        if self.scalars:
            rows = {f"evaluation/{name}": row[name] for name in row.keys() - {"epoch"}}
            self.scalars.write(epoch * run.length.epoch, rows)
        speed = ""
        if self.speed:
            speed = " ({:.1f} clips/s, {:.0%} waiting for data)".format(*self.speed)
        run.console.print(
            f"epoch {epoch}/{run.config.num_epochs}: training loss "
            f"{format_number(row['training_loss'], '.4f')}; held out: {describe_scores(row)}{speed}"
        )

    def result(self) -> step.Params:
        """The parameters that the run is for."""
        config, average = self.run.config, self.state.average
        if config.result == "average" and average is not None:
            return average
        best = best_step(self.run, self.history)
        if config.result == "last" or best in (None, self.run.length.run):
            return evaluated(self.state)
        self.checkpoints.wait()
        like = self.run.parallel.to_global(self.state)
        return evaluated(self.checkpoints.restore(like, best)[0])
