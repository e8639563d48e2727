"""Defines the manifest of a source, its splits, clips and classes, and checks what goes into it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ast_jax.errors import InputError, quoted, shorten

# Names of splits, in any case, where folders or the column of a list have them.
SPLITS = {"train", "test", "validation", "valid", "val", "dev", "eval", "evaluation"}

# Control characters, line breaks and lone surrogates (from names that are not UTF-8).
NOT_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


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

    @property
    def missing_notes(self) -> list[str]:
        """A sentence about all missing clips, if there are any."""
        if not self.missing:
            return []
        return [f"{len(self.missing)} listed clips are missing: {self.missing[0]}"]


def check_text(value: str, what: str, where: str) -> None:
    """Raises InputError unless the value is one line of text that UTF-8 can encode."""
    if not value:
        raise InputError(f"{where}: {what} is empty; fill it in or remove the clip or class")
    if NOT_TEXT.search(value):
        raise InputError(
            f"{where}: {what} {quoted(value)} has a line break or an invalid character; remove it"
        )


def claim(seen: dict[tuple[str, str], str], group: str, name: str, where: str) -> None:
    """Records the location of a name; raises InputError if its group has the name already."""
    first = seen.setdefault((group, name), where)
    if first is not where:
        raise InputError(f"{where}: {quoted(name)} is in {first} already; remove one of them")


def none_found(where: Path, missing: list[str]) -> InputError:
    """Returns the error for a list of clips of which no sound file exists."""
    first = f" ({missing[0]})" if missing else ""
    return InputError(f"{where}: none of its sound files exists{first}; add them")


def split_name(name: str, where: str) -> str:
    """Returns the name of a split, as `train` for `Train`.

    Raises:
        InputError: it cannot be part of a file's name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise InputError(
            f"{where}: {quoted(name)} cannot be a split's name; use letters, digits, '_', '.' "
            f"and '-'"
        )
    return name.lower() if name.lower() in SPLITS else name


def label_indices(labels: Iterable[str], index: Mapping[str, int], where: str) -> tuple[int, ...]:
    """Returns the indices of classes, ascending; raises InputError for one that is not listed."""
    for label in labels:
        if label not in index:
            raise InputError(
                f"{where}: label {quoted(label)} is not in the class list; correct it or add it"
            )
    return tuple(sorted({index[label] for label in labels}))


def case_notes(where: Path, labels: Iterable[str]) -> list[str]:
    """Returns a sentence if names of classes differ in case alone."""
    by_name: dict[str, list[str]] = {}
    for label in labels:
        by_name.setdefault(label.casefold(), []).append(label)
    same = [" and ".join(map(quoted, each)) for each in by_name.values() if len(each) > 1]
    return [f"{where}: classes differ in case alone: {shorten(same)}"] if same else []


def negative_notes(where: Path, splits: Mapping[str, Sequence[Example]]) -> list[str]:
    """Returns a sentence if clips have no class."""
    negative = [clip.id for clips in splits.values() for clip in clips if not clip.labels]
    if not negative:
        return []
    return [
        f"{where}: {len(negative)} clips have no label, such as {quoted(negative[0])}; they are "
        f"negative examples of every class, for --loss binary_cross_entropy"
    ]


def shared_group_notes(where: Path, groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns a sentence if a group, such as a recording, has clips in several splits.

    Args:
        where: the source, for the sentence.
        groups: the group of each clip, by split.
    """
    first: dict[str, str] = {}
    shared = {
        group: (first[group], split)
        for split, names in groups.items()
        for group in dict.fromkeys(names)
        if first.setdefault(group, split) != split
    }
    if not shared:
        return []
    group, (one, another) = next(iter(shared.items()))
    more = f", and so do {len(shared) - 1} others" if len(shared) > 1 else ""
    return [f"{where}: group {quoted(group)} has clips in both {one} and {another}{more}"]
