"""Files of events, written line by line: CSV, JSON Lines, Audacity labels and RTTM."""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ast_jax.errors import InputError, one_line
from ast_jax.inference.events import Event
from ast_jax.io import check_free, csv_line
from ast_jax.urls import check_local

Write = Callable[[str, Event], None]

COLUMNS = ("file", "start", "end", "label", "peak", "mean")


def event_fields(recording: str, event: Event) -> dict[str, str | float]:
    """Returns the `COLUMNS` of an event; times are in seconds, to a microsecond."""
    start, end, label, peak, mean = event
    values = (recording, round(start, 6), round(end, 6), label, round(peak, 6), round(mean, 6))
    return dict(zip(COLUMNS, values, strict=True))


def event_row(recording: str, event: Event) -> str:
    """Returns a row of `COLUMNS`."""
    return csv_line(event_fields(recording, event).values())


def json_line(recording: str, event: Event) -> str:
    """Returns an object with `COLUMNS` as keys."""
    return json.dumps(event_fields(recording, event), ensure_ascii=False)


def audacity_line(recording: str, event: Event) -> str:
    """Returns a label of Audacity's label tracks; they name no recording and no scores."""
    return f"{event.start:.6f}\t{event.end:.6f}\t{one_line(event.label)}"


def rttm_line(recording: str, event: Event) -> str:
    """Returns a line of NIST's Rich Transcription Time Marked, with the mean as confidence.

    White space separates its fields: `_` replaces that in names. The type is SPEAKER, as tools
    ignore other types.
    """
    file, label = (
        re.sub(r"\s", "_", one_line(name)) or "<NA>" for name in (recording, event.label)
    )
    duration = event.end - event.start
    times = f"{event.start:.6f} {duration:.6f}"
    return f"SPEAKER {file} 1 {times} <NA> <NA> {label} {event.mean:.6f} <NA>"


FORMATS: dict[str, Callable[[str, Event], str]] = {
    ".csv": event_row,
    ".jsonl": json_line,
    ".txt": audacity_line,
    ".rttm": rttm_line,
}


def check_event_file(path: str | Path, num_recordings: int = 1) -> None:
    """Checks that a file can be created for the events of some recordings.

    Raises:
        InputError: it exists or is a URL, its suffix is not one of `FORMATS`, or its format has no
            place for the names of several recordings.
    """
    check_local(path)
    check_free(Path(path))
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"{path}: ends in none of {', '.join(FORMATS)}; choose one of them")
    check_names_fit(path, num_recordings)


def check_names_fit(path: str | Path, num_recordings: int) -> None:
    """Raises InputError if a file's format has no place for the names of several recordings."""
    if Path(path).suffix.lower() == ".txt" and num_recordings > 1:
        raise InputError(
            f"{path}: Audacity's labels do not name their recording, and there are "
            f"{num_recordings}; choose .csv, .jsonl or .rttm, or give one recording"
        )


@contextmanager
def open_event_file(path: str | Path, num_recordings: int = 1) -> Iterator[Write]:
    """Creates a file in the format of its suffix.

    Yields:
        A function that writes an event of a recording to it: (name of the recording, event). If
        the block fails, the events so far stay; without any the file is removed.

    Raises:
        InputError: see `check_event_file`.
        OSError: the file cannot be written.
    """
    check_event_file(path, num_recordings)
    file = Path(path)
    suffix = file.suffix.lower()
    format = FORMATS[suffix]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(exist_ok=False)
    size = 0  # of the header and whole lines
    try:
        # Names of recordings may be no valid UTF-8.
        with open(file, "w", encoding="utf-8", errors="backslashreplace", newline="") as target:
            target.write(",".join(COLUMNS) + "\n" if suffix == ".csv" else "")

            def write(recording: str, event: Event) -> None:
                nonlocal size
                target.write(format(recording, event) + "\n")
                target.flush()
                size = os.fstat(target.fileno()).st_size

            yield write
    except Exception:
        if size:
            os.truncate(file, size)  # as a full disk may have cut the last line
        else:
            file.unlink()
        raise
