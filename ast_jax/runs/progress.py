"""The progress bar of a run."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class EpochBar:
    """Context with a progress bar for the current epoch; without a terminal it only measures.

    The bar shows the loss, the learning rate, clips/s, the share of time spent waiting for data,
    and the time left in the epoch.
    """

    def __init__(self, console: Console, num_epochs: int):
        self.num_epochs = num_epochs
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(
                "loss {task.fields[loss]:.4f}  rate {task.fields[learning_rate]:.1e}  "
                "{task.fields[rate]:.1f} clips/s, {task.fields[waiting]:.0%} waiting"
            ),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal or console.quiet,
        )

    def start(self, epoch: int, step: int, steps: int) -> None:
        """Starts the bar of an epoch of so many steps, of which `step` are done."""
        self.task = self.progress.add_task(
            f"epoch {epoch}/{self.num_epochs}",
            total=steps,
            completed=step,
            loss=float("nan"),
            learning_rate=0.0,
            rate=0.0,
            waiting=0.0,
        )
        self.clips, self.waited, self.started = 0, 0.0, time.perf_counter()

    def add_wait(self, seconds: float) -> None:
        """Adds time that was spent waiting for a batch."""
        self.waited += seconds

    def step(self, loss: float, learning_rate: float, clips: int) -> None:
        """Counts a step of so many clips."""
        self.clips += clips
        self.progress.update(
            self.task,
            advance=1,
            loss=loss,
            learning_rate=learning_rate,
            rate=self.rate,
            waiting=self.waiting,
        )

    @property
    def rate(self) -> float:
        """Clips/s since the epoch started."""
        return self.clips / (time.perf_counter() - self.started)

    @property
    def waiting(self) -> float:
        """Share of the time since the epoch started that was spent waiting for data."""
        return self.waited / (time.perf_counter() - self.started)

    def end(self) -> tuple[float, float]:
        """Removes the epoch's bar; returns its clips/s and its share of time spent waiting."""
        self.progress.remove_task(self.task)
        return self.rate, self.waiting

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
