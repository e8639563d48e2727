"""Formats of the windows and events of recordings."""

from typing import TYPE_CHECKING, Any, NamedTuple

from ast_jax.cli.result_formats import ResultFormat, csv_lines, make_json_line, percent
from ast_jax.errors import one_line
from ast_jax.inference.event_files import COLUMNS, FORMATS, event_fields
from ast_jax.inference.events import Event, format_time

if TYPE_CHECKING:
    from ast_jax.inference.classifier import Labels


class LabeledWindow(NamedTuple):
    """The labels of a window; its times are in seconds."""

    start: float
    end: float
    labels: "Labels"


def _window_json(file: str, window: LabeledWindow) -> dict[str, Any]:
    start, end, labels = window
    return {"file": file, "start": round(start, 6), "end": round(end, 6), "labels": labels}


def _window_csv(file: str, window: LabeledWindow) -> str:
    start, end, labels = window
    times = (round(start, 6), round(end, 6))
    return csv_lines((file, *times, label["label"], label["score"]) for label in labels)


def _window_text(window: LabeledWindow) -> str:
    return f"  {_times(window.start, window.end)}{'  '.join(map(percent, window.labels))}"


def _event_text(event: Event) -> str:
    scores = f"{event.peak:6.1%}  {event.mean:6.1%}"
    return f"  {_times(event.start, event.end)}{scores}  {one_line(event.label)}"


def _times(start: float, end: float) -> str:
    return f"{format_time(start):>11}  {format_time(end):>11}  "


WINDOWS = ResultFormat(
    "windows",
    ("file", "start", "end", "label", "score"),
    {".csv": _window_csv, ".jsonl": make_json_line(_window_json)},
    _window_json,
    _window_text,
)
EVENTS = ResultFormat(
    "events",
    COLUMNS,
    FORMATS,
    event_fields,
    _event_text,
    heading=f"  {'start':>11}  {'end':>11}    peak    mean",
)
