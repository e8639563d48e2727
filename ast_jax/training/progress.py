"""What a person sees while a run goes on."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class EpochBar:
    """A bar for the epoch under way, with its loss and clips/s; nothing where no one watches.

    Use as a context around the epochs.
    """

    def __init__(self, console: Console, num_epochs: int):
        self.num_epochs = num_epochs
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:.1f} clips/s"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def start(self, epoch: int, steps: int) -> None:
        """Begins an epoch of that many steps."""
        self.task = self.progress.add_task(
            f"epoch {epoch}/{self.num_epochs}", total=steps, loss=float("nan"), rate=0.0
        )
        self.clips, self.began = 0, time.perf_counter()

    def step(self, loss: float, clips: int) -> None:
        """Counts a step of that many clips."""
        self.clips += clips
        self.progress.update(self.task, advance=1, loss=loss, rate=self.rate)

    @property
    def rate(self) -> float:
        """Clips/s since the epoch began."""
        return self.clips / (time.perf_counter() - self.began)

    def end(self) -> float:
        """Takes the epoch's bar away; returns its clips/s."""
        self.progress.remove_task(self.task)
        return self.rate

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
