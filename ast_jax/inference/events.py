"""Events: when a recording holds a class, from the scores of its windows."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import numpy.typing as npt

from ast_jax.errors import InputError
from ast_jax.fields import Range, check_value

if TYPE_CHECKING:  # so that printing events does not need JAX
    from ast_jax.inference.windows import Window

ROUNDING = 1e-6  # seconds, far under a sample: times are quotients, rounded in float64


class Event(NamedTuple):
    """A class that is heard for some time.

    Attributes:
        start: of its first window, in seconds.
        end: of its last window, in seconds.
        label: the class.
        peak: the highest score of its windows.
        mean: the mean score of its windows.
    """

    start: float
    end: float
    label: str
    peak: float
    mean: float


class EventTracker:
    """Finds the events in windows that are given in order, with hysteresis.

    An event of a class starts with a window that scores `on` or more, and its windows go on while
    they score `off` or more. It spans the time of these windows, so overlapping windows give one
    event. Events of a class with at most `max_gap` between them are one, of the windows of both;
    those that are then shorter than `min_duration` are dropped.
    """

    def __init__(
        self,
        labels: Sequence[str],
        on: npt.ArrayLike,
        off: npt.ArrayLike | None = None,
        *,
        min_duration: float = 0,
        max_gap: float = 0,
    ):
        """Prepares for the first window of a recording.

        Args:
            labels: the classes, in the order of the scores.
            on: the threshold, one for all classes or (classes,).
            off: the lower threshold, likewise; half of `on` by default.
            min_duration: in seconds; events are as long as a window at least.
            max_gap: in seconds.

        Raises:
            InputError: a threshold is negative or NaN, `off` is over `on`, there are more or fewer
                thresholds than classes, or a duration is negative.
        """
        check_value("min_duration", min_duration, Annotated[float, Range(0)])
        check_value("max_gap", max_gap, Annotated[float, Range(0)])
        self._labels = labels
        self._on = _thresholds("on", on, labels)
        self._off = self._on / 2 if off is None else _thresholds("off", off, labels)
        for c in np.flatnonzero(self._off > self._on).tolist():
            raise InputError(
                f"the threshold 'off' of '{labels[c]}' is {self._off[c]:.6g}, over 'on', which is "
                f"{self._on[c]:.6g}; give a lower one"
            )
        self._min_duration, self._max_gap = min_duration, max_gap
        self._is_open = np.zeros(len(labels), bool)  # has an event that may go on
        self._is_active = np.zeros(len(labels), bool)  # and the last window belongs to it
        self._start, self._end, self._peak, self._sum, self._count = np.zeros((5, len(labels)))
        self._last_start = -np.inf

    def update(self, window: "Window") -> list[Event]:
        """Adds the next window of the recording; returns the events that have ended.

        Raises:
            InputError: the window starts before the last one, or does not have a finite score for
                each class.
        """
        scores = np.asarray(window.scores, np.float64)
        if scores.shape != self._on.shape or not np.isfinite(scores).all():
            raise InputError(
                f"the scores of the window at {format_time(window.start)} have shape "
                f"{scores.shape} or are not finite; give one for each of {len(self._on)} classes"
            )
        if window.start <= self._last_start:
            raise InputError(
                f"the window at {format_time(window.start)} follows one at "
                f"{format_time(self._last_start)}; give windows in order of their start"
            )
        self._last_start = window.start
        latest_end = window.start - self._max_gap  # of an event that this window can extend
        ended = self._end_events(self._end < latest_end - ROUNDING)
        active = scores >= np.where(self._is_active, self._off, self._on)
        new = active & ~self._is_open
        self._start[new], self._end[new] = window.start, window.end
        self._peak[new], self._sum[new], self._count[new] = 0, 0, 0
        self._end[active] = np.maximum(self._end, window.end)[active]
        self._peak[active] = np.maximum(self._peak, scores)[active]
        self._sum[active] += scores[active]
        self._count[active] += 1
        self._is_open |= active
        self._is_active = active
        # The next window starts later, so it cannot extend events that this one only just could.
        ended += self._end_events(~active & (self._end < latest_end + ROUNDING))
        return ended

    def finish(self) -> list[Event]:
        """Returns the events that last until the last window; the next starts a new recording."""
        self._last_start = -np.inf
        return self._end_events(self._is_open)

    def _end_events(self, ends: np.ndarray) -> list[Event]:
        """Ends the open events of some classes; returns those that are long enough, in order."""
        ends = ends & self._is_open
        self._is_open &= ~ends
        self._is_active &= ~ends
        long = ends & (self._end - self._start > self._min_duration - ROUNDING)
        events = [
            Event(
                float(self._start[c]),
                float(self._end[c]),
                self._labels[c],
                float(self._peak[c]),
                float(self._sum[c] / self._count[c]),
            )
            for c in np.flatnonzero(long).tolist()
        ]
        return sorted(events, key=lambda event: event.start)


def find_events(windows: "Iterable[Window]", tracker: EventTracker) -> Iterator[Event]:
    """Yields the events of a recording as they end, from all its windows."""
    for window in windows:
        yield from tracker.update(window)
    yield from tracker.finish()


def format_time(seconds: float) -> str:
    """Returns a time as h:mm:ss.ss, such as 1:02:03.45."""
    hundredths = round(100 * seconds)
    minutes, rest = divmod(hundredths, 6000)
    return f"{minutes // 60}:{minutes % 60:02}:{rest // 100:02}.{rest % 100:02}"


def _thresholds(name: str, values: npt.ArrayLike, labels: Sequence[str]) -> np.ndarray:
    """Returns the threshold of each class."""
    try:
        array = np.asarray(values, np.float64)
    except (ValueError, TypeError):
        raise InputError(f"the threshold '{name}' is not a number; give one") from None
    if array.shape not in ((), (len(labels),)):
        raise InputError(
            f"the thresholds '{name}' have shape {array.shape}; give one, or one for each of "
            f"{len(labels)} classes"
        )
    array = np.broadcast_to(array, (len(labels),))
    for c in np.flatnonzero(~(array >= 0)).tolist():  # NaN is not
        raise InputError(f"the threshold '{name}' of '{labels[c]}' is {array[c]}; give 0 or more")
    return array
