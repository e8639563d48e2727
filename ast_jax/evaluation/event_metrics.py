"""Metrics of sound event detection, from scores or events by recording.

Event-based F1 is that of sed_eval and the DCASE challenges, segment-based F1 too. PSDS (Bilen et
al. 2020), which depends on no threshold, is that of the package sed_scores_eval.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from ast_jax.columns import Events
from ast_jax.evaluation.metrics import Metrics, compute_metrics

ON, OFF = 0.5, 0.25  # thresholds
ONSET_COLLAR = 0.2  # seconds
OFFSET_COLLAR = 0.2  # seconds, or this share of the event if that is longer
SEGMENT = 1.0  # seconds
ROUNDING = 1e-9  # seconds, so that an event exactly a collar away counts

# Criteria and weights of PSDS in the DCASE challenges.
SCENARIOS: dict[str, dict[str, Any]] = {
    "psds1": {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "alpha_st": 1},
    "psds2": {
        "dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3, "alpha_ct": 0.5,
        "alpha_st": 1,
    },
}  # fmt: skip


class Recording(NamedTuple):
    """The scores of a recording, and its true events.

    Attributes:
        name: of the recording.
        borders: (columns + 1,) in seconds.
        scores: (columns, classes), probabilities.
        events: the true ones.
    """

    name: str
    borders: np.ndarray
    scores: np.ndarray
    events: Events


class EventMetrics(NamedTuple):
    """F1 of each class, float64 (classes,); NaN for a class that is neither true nor found.

    Attributes:
        event_f1: event-based, with collars of 200 ms, or 20 % of the event for its end.
        segment_f1: segment-based, 1 s.
    """

    event_f1: np.ndarray
    segment_f1: np.ndarray


def event_metrics(recordings: Sequence[Recording]) -> EventMetrics:
    """Computes the F1 of the events that `ast-jax classify --events` finds by default."""
    classes = recordings[0].scores.shape[1]
    counts = np.zeros((2, classes, 3), np.int64)
    for recording in recordings:
        found = find_event_rows(recording.scores, recording.borders, ON, OFF)
        counts[0] += count_events(recording.events, found, classes)
        counts[1] += count_segments(recording.events, found, classes)
    return EventMetrics(*(f1(each) for each in counts))


def find_event_rows(
    scores: Float[np.ndarray, "columns classes"],
    borders: Float[np.ndarray, " borders"],
    on: float,
    off: float,
) -> Events:
    """Returns the events in a recording, in the order of classes.

    They start with a score of at least `on`, and go on while scores are at least `off`.
    """
    active = np.pad((scores >= off).T, ((0, 0), (1, 1)))  # (classes, columns + 2)
    changes = np.diff(active.astype(np.int8), axis=1)
    labels, starts = np.nonzero(changes == 1)
    _, ends = np.nonzero(changes == -1)
    events = []
    for label, start, end in zip(labels, starts, ends, strict=True):
        high = np.flatnonzero(scores[start:end, label] >= on)
        if len(high):
            events.append((borders[start + high[0]], borders[end], label))
    return np.array(events, np.float64).reshape(-1, 3)


def count_events(true: Events, found: Events, classes: int) -> Int64[np.ndarray, "classes 3"]:
    """Returns the numbers of matched, of true and of found events of each class.

    A found event matches a true one if its start is within `ONSET_COLLAR` of the true start, and
    its end within `OFFSET_COLLAR` of the true end. Each matches one other at most, as many as can.
    """
    counts = np.zeros((classes, 3), np.int64)
    for label in range(classes):
        own, others = true[true[:, 2] == label], found[found[:, 2] == label]
        starts, ends = (np.abs(own[:, None, i] - others[None, :, i]) for i in (0, 1))
        collars = np.maximum(OFFSET_COLLAR, OFFSET_COLLAR * (own[:, 1] - own[:, 0]))[:, None]
        close = (starts <= ONSET_COLLAR + ROUNDING) & (ends <= collars + ROUNDING)
        matched = 0
        if close.any():
            matched = int((maximum_bipartite_matching(csr_array(close)) >= 0).sum())
        counts[label] = matched, len(own), len(others)
    return counts


def count_segments(true: Events, found: Events, classes: int) -> Int64[np.ndarray, "classes 3"]:
    """Returns, for each class, the numbers of segments where both, the truth or the found has it.

    An event is in every segment of `SEGMENT` seconds that it overlaps.
    """
    last = max([0.0, *true[:, 1], *found[:, 1]])
    grids = np.zeros((2, math.ceil(last / SEGMENT), classes), bool)
    for grid, events in zip(grids, (true, found), strict=True):
        for start, end, label in events:
            first, stop = math.floor(start / SEGMENT), math.ceil(end / SEGMENT)
            grid[first:stop, int(label)] = True
    both = grids.all(axis=0).sum(axis=0)
    return np.stack([both, *grids.sum(axis=1)], axis=1)


def f1(counts: Int64[np.ndarray, "classes 3"]) -> Float[np.ndarray, " classes"]:
    """Returns the F1 of each class, from the numbers of matched, true and found."""
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        return 2 * counts[:, 0] / (counts[:, 1] + counts[:, 2])


def psds(recordings: Sequence[Recording], labels: Sequence[str]) -> dict[str, float] | None:
    """Computes the PSDS of both scenarios of the DCASE challenges; None without sed_scores_eval.

    A package that cannot be imported, as one that it needs was replaced, counts as missing: scores
    are computed last, after hours of training.

    The first rewards exact times, the second the right class.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its dependencies, about their own imports
            from sed_scores_eval.base_modules.scores import create_score_dataframe
            from sed_scores_eval.intersection_based import psds as exact_psds
    except ImportError:
        return None

    scores, true, durations = {}, {}, {}
    for name, borders, rows, events in recordings:
        scores[name] = create_score_dataframe(rows, borders, list(labels))
        true[name] = [(start, end, labels[int(label)]) for start, end, label in events.tolist()]
        durations[name] = float(borders[-1])
    return {
        scenario: float(exact_psds(scores, true, durations, max_efpr=100, **criteria)[0])
        for scenario, criteria in SCENARIOS.items()
    }


def frame_metrics(logits: np.ndarray, targets: np.ndarray, loss: float) -> Metrics:
    """Computes all metrics of (frames, classes) logits, as those of clips.

    The accuracy is the share of the frames of which every class is decided rightly.
    """
    metrics = compute_metrics(logits, targets, loss)
    exact = ((logits >= 0) == (targets > 0)).all(axis=1)
    return metrics._replace(accuracy=float(exact.mean()))
