"""What a source of labelled recordings holds, before any sound is decoded."""

from typing import NamedTuple


class Example(NamedTuple):
    """A clip of a source.

    Attributes:
        id: unique in its split.
        path: of the sound file, absolute.
        labels: the clip's classes by index, ascending, each once.
    """

    id: str
    path: str
    labels: tuple[int, ...]


class Manifest(NamedTuple):
    """What a source holds.

    Attributes:
        labels: class names, in the order of their indices.
        splits: the clips of each split, in order.
        missing: clips that the source names but whose files are not there, a line each that
            names the list and its line.
    """

    labels: list[str]
    splits: dict[str, list[Example]]
    missing: list[str]
