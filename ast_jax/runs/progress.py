"""What a person sees while a run goes on."""

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")


class EpochBar:
    """A bar for the epoch under way; where no one watches it only measures.

    Use as a context around the epochs. The bar shows the loss, the learning rate, clips/s, the
    share of time spent waiting for data, and the time left in the epoch.
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
        self.clips, self.waited, self.began = 0, 0.0, time.perf_counter()

    def start(self, epoch: int, step: int, steps: int) -> None:
        """Begins an epoch of that many steps, or goes on with it after `step` of them."""
        self.task = self.progress.add_task(
            f"epoch {epoch}/{self.num_epochs}",
            total=steps,
            completed=step,
            loss=float("nan"),
            learning_rate=0.0,
            rate=0.0,
            waiting=0.0,
        )
        self.clips, self.waited, self.began = 0, 0.0, time.perf_counter()

    def wait(self, batches: Iterator[Item]) -> Item:
        """The next batch; the time that takes is time spent waiting."""
        began = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - began
        return batch

    def step(self, loss: float, learning_rate: float, clips: int) -> None:
        """Counts a step of that many clips."""
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
        """Clips/s since the epoch began."""
        return self.clips / (time.perf_counter() - self.began)

    @property
    def waiting(self) -> float:
        """The share of the time since the epoch began that was spent waiting for data."""
        return self.waited / (time.perf_counter() - self.began)

    def end(self) -> tuple[float, float]:
        """Takes the epoch's bar away; returns its clips/s and share of time spent waiting."""
        self.progress.remove_task(self.task)
        return self.rate, self.waiting

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()
