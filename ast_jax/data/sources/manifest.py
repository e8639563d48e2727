"""Defines the manifest of a source: its splits, clips and classes."""

from collections.abc import Sequence
from typing import NamedTuple


class Example(NamedTuple):
    """A labeled clip of a source.

    Attributes:
        id: unique in its split.
        path: the absolute path of the sound file.
        labels: the indices of the clip's classes, ascending and unique; none for a clip of no
            class.
        segment: the start and the end of the clip in the file, in seconds; None for all of it.
    """

    id: str
    path: str
    labels: tuple[int, ...]
    segment: tuple[float, float] | None = None


class Manifest(NamedTuple):
    """The clips and classes of a source.

    Attributes:
        labels: the class names, in the order of their indices.
        splits: the clips of each split, in order.
        missing: a sentence for each listed clip without a sound file; it names the list and the
            line.
        notes: sentences about the source to read before training, such as files passed over.
    """

    labels: list[str]
    splits: dict[str, list[Example]]
    missing: list[str]
    notes: Sequence[str] = ()
