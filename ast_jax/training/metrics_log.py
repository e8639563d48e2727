"""The metrics of the training steps: read late, summed, checked and logged."""

import math
import time
from typing import Any

from ast_jax.data.batches import Batch
from ast_jax.errors import InputError, shorten
from ast_jax.runs.history import epoch_header, epoch_line
from ast_jax.runs.logging import ScalarWriter
from ast_jax.runs.progress import EpochBar
from ast_jax.training.checkpointing import RunCheckpoints, RunningLoss
from ast_jax.training.setup import Run
from ast_jax.training.step import StepMetrics

LOG_EVERY = 10  # steps, for TensorBoard


class MetricsLog:
    """Reads each step's metrics after the next step has started, so that devices never wait.

    Args:
        run: the run.
        checkpoints: of the run.
        bar: shows the metrics.
        scalars: writes them for TensorBoard; None in other processes than the first.

    Attributes:
        running_loss: what is accumulated since the last evaluation; `flush` updates it.
        speed: clips/s and share of time waiting for data of the last epoch, or None.
    """

    def __init__(
        self, run: Run, checkpoints: RunCheckpoints, bar: EpochBar, scalars: ScalarWriter | None
    ):
        self.running_loss = RunningLoss()
        self.speed: tuple[float, float] | None = None
        self._run, self._checkpoints, self._bar, self._scalars = run, checkpoints, bar, scalars
        self._unread: tuple[int, StepMetrics] | None = None
        self._counted_until = time.perf_counter()
        self._header_printed = False
        self._lengths: set[int] = set()  # of inputs, for which the step is compiled

    def start_epoch(self, epoch: int, step_in_epoch: int) -> None:
        """Starts the progress bar of an epoch, counted from 0."""
        self._bar.start(epoch + 1, step_in_epoch, self._run.length.steps_per_epoch)

    def add_wait(self, seconds: float) -> None:
        """Adds time that the loop waited for a batch."""
        self._bar.add_wait(seconds)

    def add(self, step: int, metrics: StepMetrics) -> None:
        """Takes the metrics of a step that was dispatched; reads those of the step before.

        Raises:
            InputError: the step before was not finite, and too many such steps were skipped.
        """
        self.flush()
        self._unread = step, metrics

    def flush(self) -> None:
        """Waits for the last step, reads its metrics and counts the time.

        Raises:
            InputError: as `add`.
        """
        now = time.perf_counter()
        seconds = self.running_loss.seconds + now - self._counted_until
        self.running_loss = self.running_loss._replace(seconds=seconds)
        self._counted_until = now
        if self._unread is None:
            return
        (step, metrics), self._unread = self._unread, None
        loss, grad_norm = float(metrics.loss), float(metrics.grad_norm)
        # One's own optimizer has its rate inside.
        own = self._run.overrides.optimizer is not None
        learning_rate = None if own else float(metrics.learning_rate)
        self.running_loss = self.running_loss._replace(learning_rate=learning_rate)
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self.running_loss = self.running_loss.with_loss(loss)
        else:
            self.running_loss = self.running_loss._replace(skipped=self.running_loss.skipped + 1)
            self._report_nonfinite(step, "gradient" if math.isfinite(loss) else "loss")
        for callback in self._run.overrides.callbacks:
            callback.on_step(
                step, {"loss": loss, "grad_norm": grad_norm, "learning_rate": learning_rate}
            )
        self._bar.step(loss, self._run.config.batch_size)
        if self._scalars and step % LOG_EVERY == 0:
            self._scalars.write(
                step,
                {
                    "training/loss": loss,
                    "training/gradient_norm": grad_norm,
                    "training/learning_rate": learning_rate,
                    "training/clips_per_second": self._bar.rate,
                    "training/waiting_for_data": self._bar.waiting,
                },
            )

    def note_shape(self, batch: Batch) -> None:
        """Prints the length of a batch's input if it is the first of its length bucket."""
        if self._run.config.length_buckets == 1:
            return
        name = "input_values" if "input_values" in batch else "waveforms"
        length = batch[name].shape[1]
        if length not in self._lengths:
            self._lengths.add(length)
            what = "frames" if name == "input_values" else "samples"
            self._run.console.print(f"compiling the training step for clips of {length} {what}…")

    def end_epoch(self) -> None:
        """Reads the epoch's last metrics and removes its progress bar."""
        self.flush()
        self.speed = self._bar.end()

    def reset_loss(self) -> None:
        """Starts a new mean of the training loss, and a new count of the time."""
        self.running_loss = RunningLoss(skipped=self.running_loss.skipped)

    def write_scalars(self, step: int, scalars: dict[str, float | None]) -> None:
        """Writes scalars for TensorBoard."""
        if self._scalars:
            self._scalars.write(step, scalars)

    def print_row(self, row: dict[str, Any]) -> None:
        """Prints the line of an evaluation, the first below a header."""
        num_epochs = self._run.config.num_epochs
        if not self._header_printed:
            self._run.console.print(epoch_header(num_epochs))
            self._header_printed = True
        self._run.console.print(epoch_line(row, num_epochs, self.speed))

    def _report_nonfinite(self, step: int, what: str) -> None:
        """Names the clips of a skipped step; raises `InputError` if it is one too many."""
        run, skipped = self._run, self.running_loss.skipped
        names = [str(run.data.train.names[i]) for i in run.train_batches.indices(step)]
        message = f"step {step}: the {what} is not finite, on the clips {shorten(names, 8)}"
        if skipped <= run.config.skip_nonfinite:
            run.console.print(f"{message}; skipped")
            return
        checkpoint = self._checkpoints.newest()
        raise InputError(
            f"{message}; lower optimizer.learning_rate, repair the clips, or skip such "
            f"steps with skip_nonfinite={skipped + 9} "
            + (
                f"(the last good checkpoint is {checkpoint}; another rate needs another workdir)"
                if checkpoint
                else "(there is no checkpoint yet)"
            )
        )
