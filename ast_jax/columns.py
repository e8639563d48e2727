"""The times of a frame-level model's outputs: a column of patches is a frame.

An input of the model has `max_length` log-mel frames. The columns of a recording follow each other
without gap from its start to its end, in as many inputs as it takes.
"""

from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float, Float32

from ast_jax.audio.kaldi import frame_sizes
from ast_jax.models.config import ASTConfig

Events = Float[np.ndarray, "_ 3"]  # rows of (start, end, class), in seconds


class Columns(NamedTuple):
    """The grid of columns over a recording.

    A column lasts `hop` samples, around the center of its patches: with a stride of 10 frames
    100 ms. The first begins with the recording, and the last ends with it.

    Attributes:
        per_input: columns of one input of the model.
        hop: samples from a column to the next.
        size: samples that the patches of a column cover.
        shift: samples from a frame to the next.
        input_samples: samples that an input covers.
        sampling_rate: in Hz.
    """

    per_input: int
    hop: int
    size: int
    shift: int
    input_samples: int
    sampling_rate: int

    @classmethod
    def of(cls, config: ASTConfig, sampling_rate: int) -> Self:
        """Returns the columns of a model."""
        size, shift = frame_sizes(sampling_rate)
        return cls(
            per_input=config.grid[1],
            hop=config.time_stride * shift,
            size=size + (config.patch_size - 1) * shift,
            shift=shift,
            input_samples=size + (config.max_length - 1) * shift,
            sampling_rate=sampling_rate,
        )

    def count(self, samples: int) -> int:
        """Returns the number of columns of a recording, at least 1.

        The rest of the recording, which fills no patch, belongs to the last column.
        """
        return max(1, (samples - self.size) // self.hop + 1)

    def inputs(self, samples: int) -> list[int]:
        """Returns the first column of each input that a recording is cut into.

        Each input has the columns after those of the input before. The last one is moved back to
        end with the recording, so that it is not padded.
        """
        count = self.count(samples)
        last = max(0, count - self.per_input)
        return [min(first, last) for first in range(0, count, self.per_input)]

    def border(self, column: int) -> float:
        """Returns the time in seconds at which a column begins, where the one before it ends."""
        first = (self.size + self.hop) / 2  # half a hop before the second's center
        return (first + (column - 1) * self.hop) / self.sampling_rate if column else 0.0

    def borders(self, samples: int) -> Float[np.ndarray, " borders"]:
        """Returns the borders of a recording's columns, its start and its end, in seconds.

        There is one more than columns.
        """
        inner = [self.border(column) for column in range(self.count(samples))]
        return np.array([*inner, samples / self.sampling_rate])

    def targets(
        self, events: Events, num_classes: int, samples: int, first: int = 0
    ) -> Float32[np.ndarray, "columns classes"]:
        """Returns the targets of an input: 1 for the classes that a column has, else 0.

        The borders of events are rounded to those of columns, and an event has one at least.

        Args:
            events: of the recording.
            num_classes: the number of classes.
            samples: the length of the recording; columns after it have no class.
            first: the first column of the input in the recording.
        """
        targets = np.zeros((self.per_input, num_classes), np.float32)
        count = self.count(samples)
        hop = self.hop / self.sampling_rate
        times = np.round((events[:, :2] - self.border(1)) / hop + 1)
        times = times.clip(0, count).astype(int)
        for (start, end), label in zip(times, events[:, 2].astype(int), strict=True):
            start = min(start, count - 1)
            end = max(start + 1, end)
            targets[max(0, start - first) : max(0, end - first), label] = 1
        return targets
