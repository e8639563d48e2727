"""The options of commands that find events."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ast_jax.errors import InputError

if TYPE_CHECKING:
    from ast_jax.inference.events import EventTracker
    from ast_jax.thresholds import Thresholds


@dataclass(frozen=True)
class EventOptions:
    """The options for finding events in the scores of windows.

    Attributes:
        threshold: score at which an event starts (0.5); it lasts while scores are half of that
        thresholds: a .json of `ast-jax evaluate` with a threshold for each class
        min_duration: leave out events of fewer seconds
        max_gap: join events of a class with so many seconds between them
    """

    threshold: float | None = None
    thresholds: str = ""
    min_duration: float = 0
    max_gap: float = 0

    def check(self) -> None:
        """Raises InputError if the threshold cannot be used."""
        if self.threshold is not None:
            if self.thresholds:
                raise InputError("--threshold and --thresholds are both given; leave one out")
            if not 0 < self.threshold <= 1:
                raise InputError(
                    f"--threshold is {self.threshold}; give a number over 0 and up to 1"
                )

    def read_thresholds(self) -> "Thresholds | None":
        """Returns the thresholds of the file, None without one.

        Raises:
            InputError: the file cannot be used.
        """
        from ast_jax.thresholds import Thresholds

        return Thresholds.read(self.thresholds) if self.thresholds else None

    def tracker(self, labels: Sequence[str], thresholds: "Thresholds | None") -> "EventTracker":
        """Returns what finds the events.

        Args:
            labels: of the model.
            thresholds: see `read_thresholds`.

        Raises:
            InputError: an option cannot be used, or the thresholds are of other classes.
        """
        from ast_jax.inference.events import EventTracker

        on = 0.5 if self.threshold is None else self.threshold
        return EventTracker(
            labels,
            thresholds.for_labels(labels) if thresholds else on,
            min_duration=self.min_duration,
            max_gap=self.max_gap,
        )
