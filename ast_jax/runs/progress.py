"""The progress bar of a run."""

import time
from typing import Self

import jax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

COMPILING = "compiling…"
LINE_SECONDS = 60  # between two lines of an epoch where there is no terminal


def run_console() -> Console:
    """Returns the console of a run: plain text, printed by the first process of a pod alone."""
    return Console(soft_wrap=True, markup=False, highlight=False, quiet=jax.process_index() > 0)


class EpochBar:
    """Context with a progress bar for the current epoch; without a terminal a line per minute.

    The bar fits 80 columns. It shows the loss, clips/s, the share of time spent waiting for data,
    and the time left in the epoch; before the run's first step is done, that it compiles.
    """

    def __init__(self, console: Console, num_epochs: int):
        self.num_epochs = num_epochs
        self.console = console
        self.status = COMPILING
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            expand=True,
            disable=not console.is_terminal or console.quiet,
        )

    def start(self, epoch: int, step: int, steps: int) -> None:
        """Starts the bar of an epoch of so many steps, of which `step` are done."""
        if self.progress.disable and self.status == COMPILING:
            self.console.print("compiling the training step…")
        self.task = self.progress.add_task(
            f"epoch {epoch}/{self.num_epochs}", total=steps, completed=step, status=self.status
        )
        self.clips, self.waited, self.started = 0, 0.0, time.perf_counter()
        self.line_printed = self.started

    def add_wait(self, seconds: float) -> None:
        """Adds time that was spent waiting for a batch."""
        self.waited += seconds

    def step(self, loss: float, clips: int) -> None:
        """Counts a step of so many clips."""
        self.clips += clips
        self.status = f"loss {loss:.4f}, {self.rate:.0f} clips/s, {self.waiting:.0%} waiting"
        self.progress.update(self.task, advance=1, status=self.status)
        if self.progress.disable and time.perf_counter() - self.line_printed > LINE_SECONDS:
            self.line_printed = time.perf_counter()
            (task,) = self.progress.tasks
            done = f"step {task.completed:.0f} of {task.total:.0f}"
            self.console.print(f"{task.description}, {done}: {self.status}")

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
