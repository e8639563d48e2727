"""The timeline of a recording: the scores of its windows and its events, as a PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ast_jax.errors import InputError, one_line
from ast_jax.figures import save_figure, set_title, subplots
from ast_jax.fonts import short_names
from ast_jax.inference.events import Event, format_time
from ast_jax.inference.windows import Window

MAX_CLASSES = 20
MAX_CELLS = 1500  # in time, about the picture's pixels
MAX_TITLE = 80  # letters
MAX_STEPS = 9  # of the time axis
TICK_STEPS = np.array(
    [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800]
    + [3600 * hours for hours in (1, 2, 3, 4, 6, 12, 24)]
)


def draw_timeline(
    file: Path,
    windows: Sequence[Window],
    events: Sequence[Event],
    labels: Sequence[str],
    title: str = "",
) -> None:
    """Draws a row for each class with events, or for those with the highest scores without any.

    A row has the score of each window, from the middle between its center and that of the window
    before to that of the next, and a bar for each event. Of more windows than the picture has
    pixels, neighbors share a cell with their highest score. Of more than `MAX_CLASSES` classes
    those with the highest scores are drawn, with a note in the title.

    Args:
        file: to write.
        windows: in order.
        events: of these windows.
        labels: of the scores.
        title: such as the recording's name.

    Raises:
        InputError: there are no windows.
    """
    if not windows:
        raise InputError(f"{file}: there are no windows to draw; give those of a recording")
    scores = np.stack([window.scores for window in windows], axis=1)  # (classes, windows)
    highest = scores.max(axis=1)
    has_event = np.isin(np.array(labels, object), [event.label for event in events])
    order = np.lexsort((-highest, ~has_event))
    shown = order[: min(MAX_CLASSES, has_event.sum() or MAX_CLASSES)]
    row_of = {labels[c]: row for row, c in enumerate(shown)}
    names = short_names(labels)

    figure, axes = subplots(1, 1, (12, 1.6 + 0.3 * len(shown)))
    edges, cells = _cells(windows, scores[shown])
    rows = np.arange(len(shown) + 1) - 0.5
    picture = axes.pcolormesh(edges, rows, cells, cmap="Blues", vmin=0, vmax=1)
    for event in events:
        if event.label in row_of:
            bar = (event.start, event.end - event.start)
            row = (row_of[event.label] + 0.22, 0.18)
            axes.broken_barh([bar], row, color="tab:orange", linewidth=1)  # a pixel at least
    axes.set(xlim=(edges[0], edges[-1]), ylim=(len(shown) - 0.5, -0.5))
    # parse_math=False: '$' in a name does not begin a formula.
    shown_names = [names.names[c] for c in shown]
    axes.set_yticks(range(len(shown)), shown_names, parse_math=False, fontfamily=names.families)
    axes.set_yticks(rows[1:-1], minor=True)
    axes.grid(which="minor", axis="y", color="white")
    axes.tick_params(which="minor", length=0)
    axes.set_xticks(*time_ticks(edges[0], edges[-1]))
    figure.colorbar(picture, ax=axes, label="score", pad=0.01)
    set_title(axes, _heading(title, len(events), int(has_event.sum()), len(shown)))
    if names.note:
        figure.supxlabel(names.note, fontsize=8)
    save_figure(figure, file, replace=False)


def _cells(windows: Sequence[Window], scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the edges of at most `MAX_CELLS` cells in seconds, and (classes, cells) scores."""
    centers = np.array([(window.start + window.end) / 2 for window in windows])
    between = (centers[:-1] + centers[1:]) / 2
    edges = np.array([windows[0].start, *between, windows[-1].end])
    count = min(len(windows), MAX_CELLS)
    first = np.arange(count) * len(windows) // count  # window of each cell
    return np.append(edges[first], edges[-1]), np.maximum.reduceat(scores, first, axis=1)


def time_ticks(start: float, end: float) -> tuple[np.ndarray, list[str]]:
    """Returns at most 10 round times, and their texts: h:mm:ss, with hundredths if any has some."""
    steps = TICK_STEPS[(end - start) / TICK_STEPS <= MAX_STEPS]
    step = steps[0] if len(steps) else end - start
    ticks = step * np.arange(np.ceil(start / step), np.floor(end / step) + 1)
    texts = [format_time(tick) for tick in ticks]
    is_whole = all(text.endswith(".00") for text in texts)
    return ticks, [text[:-3] if is_whole else text for text in texts]


def _heading(title: str, num_events: int, num_with_event: int, num_shown: int) -> str:
    """Returns the title with what is drawn and what is left out."""
    title = one_line(title)
    if len(title) > MAX_TITLE:
        title = f"…{title[1 - MAX_TITLE :]}"
    if not num_events:
        text = f"no events; the {num_shown} classes with the highest scores"
    else:
        text = f"{num_events} event{'s' * (num_events > 1)}"
        text += f" of {num_with_event} class{'es' * (num_with_event > 1)}"
    if num_with_event > num_shown:
        text += f"; the {num_shown} with the highest scores"
    return f"{title}: {text}" if title else text
