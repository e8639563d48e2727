"""Lists AudioSet (Gemmeke et al. 2017): the official segment lists and existing sound files."""

import os
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from ast_jax.data.sources.class_csv import read_classes, refuse_classes
from ast_jax.data.sources.files import is_sound
from ast_jax.data.sources.manifest import Example, Manifest, none_found
from ast_jax.data.sources.tables import parse_csv, read_lines
from ast_jax.errors import InputError, quoted
from ast_jax.labels import AUDIOSET

LISTS = {
    "balanced": "balanced_train_segments.csv",
    "unbalanced": "unbalanced_train_segments.csv",
    "eval": "eval_segments.csv",
}
VIDEO = re.compile("[A-Za-z0-9_-]+")
NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
SECONDS = re.compile(NUMBER)


class Segment(NamedTuple):
    """A line of a segment list: part of a video, in seconds, and its classes."""

    line: int
    video: str
    start: float
    end: float
    labels: tuple[int, ...]


class Files:
    """Finds the sound file of a segment by name, anywhere under a folder.

    Of several files for a segment, takes the first by folder and name. Follows links to folders,
    as sound files are often on another disk than the lists.
    """

    def __init__(self, folder: Path):
        self._by_stem: dict[str, str] = {}
        # Video → (times, path) of the files with times in their names: `_30` or `_30_40`.
        self._by_video: dict[str, list[tuple[tuple[float, ...], str]]] = {}
        endings = [re.compile(f"(.+)_({NUMBER})"), re.compile(f"(.+)_({NUMBER})_({NUMBER})")]
        for stem, path in _sound_files(folder):
            self._by_stem.setdefault(stem, path)
            for ending in endings:
                if match := ending.fullmatch(stem):
                    times = tuple(map(float, match.groups()[1:]))
                    self._by_video.setdefault(match[1], []).append((times, path))

    def find(self, segment: Segment) -> str | None:
        """Returns the path of the segment's file, or None."""
        names = (segment.video, f"Y{segment.video}")
        for name in names:
            if name in self._by_stem:
                return self._by_stem[name]
        for name in names:
            for times, path in self._by_video.get(name, ()):
                # Times are in seconds or in milliseconds.
                bounds = (segment.start, segment.end)[: len(times)]
                for unit in (1, 1000):
                    if all(
                        abs(time - unit * bound) < 5e-4 * unit
                        for time, bound in zip(times, bounds, strict=True)
                    ):
                        return path
        return None


def list_audioset(source: Path, classes: Path | None = None) -> Manifest:
    """Lists the segments of the official lists: splits `balanced`, `unbalanced`, `eval`.

    A split exists if its list (`balanced_train_segments.csv` and so on) does and it has a clip.
    A list has comments and lines of `YTID, start_seconds, end_seconds, "/m/a,/m/b"`. A segment's
    sound file is anywhere under `source`, has a suffix of `files.SUFFIXES` and is named
    `YTID`, `YTID_start` or `YTID_start_end`, with times in seconds or milliseconds and an
    optional `Y` in front. Classes are the published 527; a clip's id is its YTID.

    Source: https://research.google.com/audioset/download.html

    Args:
        source: the folder of the lists and the sound files.
        classes: must be None, as AudioSet has its own classes.

    Raises:
        InputError: there is no list, a line cannot be used, or no sound file exists.
    """
    refuse_classes(classes, "AudioSet")
    source = Path(source).absolute()
    lists = {split: source / name for split, name in LISTS.items() if (source / name).is_file()}
    if not lists:
        raise InputError(f"{source}: has none of {', '.join(LISTS.values())}; add one")
    with resources.as_file(resources.files("ast_jax") / "class_lists") as folder:
        names, mids = read_classes(folder / f"{AUDIOSET.class_list}.csv")
    index = {mid: i for i, mid in enumerate(mids)}
    files = Files(source)
    splits, missing = {}, []
    for split, file in lists.items():
        clips, absent = [], []
        for segment in _read_segments(file, index):
            path = files.find(segment)
            if path is None:
                absent.append(f"{file}, line {segment.line}: no sound file of {segment.video}")
            else:
                clips.append(Example(segment.video, path, segment.labels))
        if clips:
            splits[split] = clips
        missing += absent
    if not splits:
        raise none_found(source, missing)
    return Manifest(names, splits, missing)


def _read_segments(file: Path, index: dict[str, int]) -> Iterator[Segment]:
    lines: dict[str, int] = {}
    # Two million lines share few combinations of labels.
    parsed: dict[str, tuple[int, ...]] = {}
    for line, fields in parse_csv(file, _without_comments(read_lines(file, "CSV")), spaces=True):
        try:
            video, start, end, labels = fields
            if labels not in parsed:
                parsed[labels] = _indices(labels, index)
            if not VIDEO.fullmatch(video):
                raise ValueError(f"{quoted(video)} is not a YouTube id")
            if video in lines:
                raise ValueError(f"'{video}' is in line {lines[video]} already")
            if not SECONDS.fullmatch(start) or not SECONDS.fullmatch(end):
                raise ValueError(f"{quoted(start)} and {quoted(end)} must be seconds")
            if not float(start) < float(end):
                raise ValueError(f"the end, {quoted(end)}, must come after the start")
        except ValueError as error:
            what = error if len(fields) == 4 else f"has {len(fields)} fields, not 4"
            raise InputError(
                f"{file}, line {line}: {what}; write YTID, start, end and the labels, in quotes"
            ) from None
        lines[video] = line
        yield Segment(line, video, float(start), float(end), parsed[labels])


def _without_comments(lines: Iterator[str]) -> Iterator[str]:
    """Replaces comments by blank lines, which keeps line numbers."""
    for line in lines:
        # YouTube ids have no '#'.
        yield "\n" if line.startswith("#") else line


def _indices(labels: str, index: dict[str, int]) -> tuple[int, ...]:
    mids = [mid.strip() for mid in labels.split(",")]
    for mid in mids:
        if mid not in index:
            raise ValueError(f"label {quoted(mid)} is not one of AudioSet's 527")
    return tuple(sorted({index[mid] for mid in mids}))


def _sound_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields stem and path of every sound file, in the order of folder and name."""

    def refuse(error: OSError) -> None:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); make it readable"
        ) from None

    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        # Links may form cycles.
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            if is_sound(name):
                yield name.rpartition(".")[0], os.path.join(parent, name)
