"""The bar that shows how far a command is in long recordings."""

import datetime
import time
from typing import Self

from ast_jax.errors import one_line


class ReadingBar:
    """Context with a bar on stderr for the current recording, if stderr is a terminal.

    It shows the time in the recording, how much faster than it plays it is read, and the time left.
    """

    def __init__(self, num_recordings: int, *, is_shown: bool):
        """Prepares the bar.

        Args:
            num_recordings: how many there are.
            is_shown: False if the terminal shows the results as they are found.
        """
        # rich takes a tenth of a second to import.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.num_recordings, self.index = num_recordings, 0
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            expand=True,
            redirect_stdout=False,
            disable=not (is_shown and console.is_terminal),
        )
        self.task = self.progress.add_task("", visible=False, total=None, status="")

    def start(self, name: str, seconds: float | None) -> None:
        """Starts the bar of the next recording, of so many seconds if that is known."""
        self.index += 1
        self.started = time.perf_counter()
        which = f"{self.index}/{self.num_recordings} " if self.num_recordings > 1 else ""
        text = one_line(name)
        text = text if len(text) <= 30 else f"…{text[-29:]}"
        self.progress.reset(
            self.task, total=seconds, description=which + text, status="", visible=True
        )

    def update(self, seconds: float) -> None:
        """Shows that so many seconds of the recording were read."""
        speed = seconds / (time.perf_counter() - self.started)
        position = datetime.timedelta(seconds=int(seconds))
        self.progress.update(self.task, completed=seconds, status=f"{position}, {speed:.0f}x")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
