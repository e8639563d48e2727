"""Recordings with strong labels: events with their start and end, for frame-level models."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from ast_jax.columns import Columns, Events


class Input(NamedTuple):
    """An input of the model that is cut from a recording.

    Attributes:
        recording: its index.
        first: its first column in the recording.
        scored: its columns that no earlier input of the recording has, and that are not padding.
    """

    recording: int
    first: int
    scored: slice


@dataclass(frozen=True)
class StrongLabels:
    """The events of recordings, from which each input's targets are computed when needed.

    Attributes:
        names: of the recordings.
        lengths: of the recordings, in samples.
        events: of each recording.
        num_classes: the number of classes.
        columns: of the model.
        inputs: in the order of the recordings.
    """

    names: Sequence[str]
    lengths: Sequence[int]
    events: Sequence[Events]
    num_classes: int
    columns: Columns
    inputs: Sequence[Input]

    @classmethod
    def cut(
        cls,
        names: Sequence[str],
        lengths: Sequence[int],
        events: Sequence[Events],
        num_classes: int,
        columns: Columns,
    ) -> "StrongLabels":
        """Cuts recordings into inputs, see `Columns.inputs`."""
        inputs = []
        for recording, length in enumerate(lengths):
            count, done = columns.count(length), 0
            for first in columns.inputs(length):
                end = min(first + columns.per_input, count)
                inputs.append(Input(recording, first, slice(done - first, end - first)))
                done = end
        return cls(names, lengths, events, num_classes, columns, inputs)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of an input's target: (columns, classes)."""
        return self.columns.per_input, self.num_classes

    def target(
        self, index: int, samples: int | None = None
    ) -> Float32[np.ndarray, "columns classes"]:
        """Returns the target of an input, as if it had only so many samples if given."""
        recording, first, _ = self.inputs[index]
        length, events = self.lengths[recording], self.events[recording]
        target = self.columns.targets(events, self.num_classes, length, first)
        if samples is not None:
            target[self.columns.count(samples) :] = 0
        return target

    def clip_targets(self) -> Float32[np.ndarray, "inputs classes"]:
        """Returns 1 for the classes that an input has in any column, else 0."""
        return np.stack([self.target(i).max(axis=0) for i in range(len(self.inputs))])

    def scored(
        self, outputs: Iterable[Float[np.ndarray, "columns classes"]]
    ) -> Float[np.ndarray, "frames classes"]:
        """Returns the rows of all recordings' columns, each of them once.

        Args:
            outputs: of each input.
        """
        pairs = zip(outputs, self.inputs, strict=True)
        return np.concatenate([output[each.scored] for output, each in pairs])

    def by_recording(
        self, frames: Float[np.ndarray, "frames classes"]
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Yields name, borders (columns + 1,) in seconds and rows (columns, classes).

        Args:
            frames: the result of `scored`.
        """
        start = 0
        for name, length in zip(self.names, self.lengths, strict=True):
            count = self.columns.count(length)
            yield name, self.columns.borders(length), frames[start : start + count]
            start += count
