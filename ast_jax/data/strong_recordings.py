"""Reads recordings with strong labels, and cuts them into a model's inputs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ast_jax.columns import Columns
from ast_jax.config import StrongData
from ast_jax.data.clips import Clips, DataSet, read_waveforms
from ast_jax.data.sources.event_list import EventList, read_events
from ast_jax.data.sources.holdout import hold_out_stratified
from ast_jax.data.sources.manifest import case_notes
from ast_jax.data.strong_labels import StrongLabels
from ast_jax.errors import InputError, quoted
from ast_jax.storage import fetch

TOLERANCE = 0.1  # seconds that an event may go on after its recording, without a note


def read_strong(data: StrongData, columns: Columns) -> DataSet:
    """Loads recordings with strong labels, cut into inputs of a model with these columns.

    Raises:
        InputError: a list or a recording cannot be used.
    """
    if not data.train:
        raise InputError("data.train is not set; give the list of events to train on")
    train = _read_list(data.train, data.dir)
    labels = train.labels
    notes = [*train.notes, *case_notes(train.file, labels)]
    if data.evaluation:
        held_out = _read_list(data.evaluation, data.evaluation_dir or data.dir)
        notes += held_out.notes
    else:
        train, held_out = _hold_out(train, labels, data.holdout)
    sides = []
    for events, what in ((train, "training recordings"), (held_out, "held-out recordings")):
        clips, found = read_strong_inputs(events, labels, columns, what, scale_loud=data.scale_loud)
        sides.append(clips)
        notes += [f"{what}: {note}" for note in found]
    return DataSet(labels, sides[0], sides[1], notes=notes)


def read_strong_inputs(
    events: EventList,
    labels: Sequence[str],
    columns: Columns,
    what: str,
    *,
    scale_loud: bool = False,
) -> tuple[Clips, list[str]]:
    """Decodes the recordings of a list into memory, and cuts them into inputs.

    Args:
        events: the list.
        labels: the classes.
        columns: of the model.
        what: a word for the recordings, for the progress bar.
        scale_loud: as for `read_waveforms`.

    Returns:
        The inputs, and sentences about what is unusual in the recordings.

    Raises:
        InputError: a recording cannot be used, an event begins after its end, or its class is not
            among `labels`.
    """
    index = {label: i for i, label in enumerate(labels)}
    names = list(events.events)
    for name, own in events.events.items():
        for event in own:
            if event.label not in index:
                raise InputError(
                    f"{events.file}: has the class {quoted(event.label)}, of {Path(name).name}, "
                    f"which is not one to train on; correct it, or leave it out"
                )
    recordings, notes = read_waveforms(names, columns.sampling_rate, what, scale_loud=scale_loud)
    lengths = [len(recording) for recording in recordings]
    arrays, late, merged = [], 0, 0
    for name, length in zip(names, lengths, strict=True):
        rows, is_late = _event_rows(events, name, index, length / columns.sampling_rate)
        arrays.append(_merge_overlaps(rows))
        late += is_late
        merged += len(rows) - len(arrays[-1])
    if late:
        notes.append(f"{late} events end after their recording, and are cut there")
    if merged:
        notes.append(f"{merged} events that touch another of their class are merged with it")
    strong = StrongLabels.cut(names, lengths, arrays, len(labels), columns)
    waveforms, input_names = [], []
    for recording, first, _ in strong.inputs:
        start = first * columns.hop
        waveforms.append(recordings[recording][start : start + columns.input_samples])
        at = f" at {start / columns.sampling_rate:.2f} s" if start else ""
        input_names.append(names[recording] + at)
    if long := len({each.recording for each in strong.inputs if each.first}):
        seconds = columns.input_samples / columns.sampling_rate
        notes.append(
            f"{long} of {len(names)} last longer than the model's input, {seconds:.2f} s; all are "
            f"cut into {len(waveforms)} inputs"
        )
    return Clips(waveforms, strong.clip_targets(), input_names, strong=strong), notes


def _read_list(file: str, folder: str) -> EventList:
    return read_events(fetch(file), fetch(folder) if folder else "")


def _hold_out(
    events: EventList, labels: Sequence[str], share: float
) -> tuple[EventList, EventList]:
    """Splits the recordings of a list, see `hold_out_stratified`."""
    names = list(events.events)
    index = {label: i for i, label in enumerate(labels)}
    classes = [
        tuple(sorted({index[event.label] for event in events.events[name]})) or (-1,)
        for name in names
    ]
    held = hold_out_stratified(classes, [Path(name).name for name in names], share)
    if not held:
        raise InputError(
            f"{events.file}: no class is in two recordings; add some, as one of a class is held "
            f"out, or give data.evaluation"
        )

    def part(chosen: list[str]) -> EventList:
        return events._replace(events={name: events.events[name] for name in chosen})

    return (
        part([name for i, name in enumerate(names) if i not in held]),
        part([name for i, name in enumerate(names) if i in held]),
    )


def _event_rows(
    events: EventList, name: str, index: Mapping[str, int], seconds: float
) -> tuple[np.ndarray, int]:
    """Returns rows (start, end, class) of the events in a recording, and how many were cut."""
    rows, late = [], 0
    for start, end, label in events.events[name]:
        if start >= seconds:
            raise InputError(
                f"{events.where[name]}: {Path(name).name} lasts {seconds:.2f} s, and an event "
                f"begins at {start:g} s; correct its times, which are in seconds"
            )
        late += end > seconds + TOLERANCE
        rows.append((start, min(end, seconds), index[label]))
    return np.array(rows, np.float64).reshape(-1, 3), late


def _merge_overlaps(rows: np.ndarray) -> np.ndarray:
    """Returns the events, those that touch another of their class as one, by class and start."""
    merged: list[list[float]] = []
    for start, end, label in rows[np.lexsort((rows[:, 0], rows[:, 2]))].tolist():
        if merged and merged[-1][2] == label and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end, label])
    return np.array(merged, np.float64).reshape(-1, 3)
