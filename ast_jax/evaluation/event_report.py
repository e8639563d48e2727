"""Metrics of frame-level models as rows and files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from ast_jax.data.clips import Clips
from ast_jax.evaluation.event_metrics import (
    OFF,
    ON,
    EventMetrics,
    Recording,
    event_metrics,
    find_event_rows,
    psds,
)
from ast_jax.evaluation.metrics import ClassMetrics, Metrics, per_class_metrics
from ast_jax.evaluation.rows import finite_or_none, format_number, to_rows
from ast_jax.io import write_csv, write_json
from ast_jax.losses import probabilities

EVENT_METRICS = {  # with their names in tables
    "event_f1": "event F1",
    "segment_f1": "segment F1",
    "psds1": "PSDS1",
    "psds2": "PSDS2",
}
COLUMNS = {"mean_average_precision": "mAP", **EVENT_METRICS, "loss": "loss"}  # of a table
WITHOUT_PSDS = "PSDS is left out, as sed_scores_eval cannot be imported: pip install 'ast-jax[sed]'"


class EventResults(NamedTuple):
    """Predictions and metrics of a frame-level model.

    Attributes:
        recordings: with their scores and true events.
        per_class: by column of sound.
        events: F1 by class.
    """

    recordings: list[Recording]
    per_class: ClassMetrics
    events: EventMetrics

    def summary(self) -> dict[str, float | None]:
        """Returns the mean F1 of the classes."""
        return {name: _mean(values) for name, values in self.events._asdict().items()}


def event_results(logits: np.ndarray, clips: Clips) -> EventResults:
    """Computes the metrics of (inputs, columns, classes) logits."""
    assert clips.strong is not None
    frames = clips.scored(logits)
    scores = probabilities("multi_label_classification", frames)
    recordings = [
        Recording(name, borders, rows, events)
        for (name, borders, rows), events in zip(
            clips.strong.by_recording(scores), clips.strong.events, strict=True
        )
    ]
    return EventResults(
        recordings, per_class_metrics(frames, clips.all_targets()), event_metrics(recordings)
    )


def events_json(
    labels: Sequence[str], metrics: Metrics, results: EventResults, about: dict[str, Any]
) -> dict[str, Any]:
    """Returns `about`, the metrics, PSDS if it is installed, and a row per class, for JSON."""
    counts = np.zeros(len(labels), int)
    for recording in results.recordings:
        counts += np.bincount(recording.events[:, 2].astype(int), minlength=len(labels))
    rows = to_rows(
        {
            "label": labels,
            "events": counts.tolist(),
            "AP": results.per_class.average_precision.tolist(),
            "AUC": results.per_class.auc.tolist(),
            "event_F1": results.events.event_f1.tolist(),
            "segment_F1": results.events.segment_f1.tolist(),
        }
    )
    content = about | metrics._asdict() | results.summary()
    content |= psds(results.recordings, labels) or {}
    return finite_or_none(content) | {"classes": rows}


def events_table(content: dict[str, Any]) -> Table:
    """Returns a table of what `events_json` returns."""
    table = Table(title=Text(f"{content['data']}: {content['recordings']} recordings"))
    table.add_column("checkpoint", overflow="fold")
    values = []
    for name, title in COLUMNS.items():
        if name in content:
            table.add_column(title, justify="right", no_wrap=True)
            values.append(format_number(content[name], ".4f"))
    table.add_row(Text(content["checkpoint"]), *values)
    return table


def write_event_results(
    folder: Path, labels: Sequence[str], content: dict[str, Any], results: EventResults
) -> None:
    """Writes the results of an evaluation to a folder, which is created if missing.

    - `results.json`: that of `events_json`.
    - `per_class.csv`: its rows by class.
    - `events.csv`: a row per event that was found, with its highest score.

    Args:
        folder: to write to.
        labels: class names.
        content: of `results.json`.
        results: has what was found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", content)
    write_csv(folder / "per_class.csv", content["classes"])
    write_csv(folder / "events.csv", found_events(results.recordings, labels))


def found_events(recordings: Sequence[Recording], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Returns a row per event that was found, in the order of recordings and times."""
    rows = []
    for name, borders, scores, _ in recordings:
        found = find_event_rows(scores, borders, ON, OFF)
        for start, end, label in found[np.argsort(found[:, 0], kind="stable")].tolist():
            within = slice(*np.searchsorted(borders, (start, end)))
            rows.append(
                {
                    "filename": name,
                    "start": round(start, 3),
                    "end": round(end, 3),
                    "label": labels[int(label)],
                    "peak": round(float(scores[within, int(label)].max()), 6),
                }
            )
    return rows


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
