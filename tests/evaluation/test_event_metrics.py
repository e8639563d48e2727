import sys
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ast_jax.evaluation.event_metrics import (
    OFF,
    ON,
    Recording,
    count_events,
    count_segments,
    event_metrics,
    f1,
    find_event_rows,
    frame_metrics,
    psds,
)
from ast_jax.inference.events import EventTracker, find_events
from ast_jax.inference.windows import Window

LABELS = ["cat", "dog"]
BORDERS = np.concatenate([[0], 0.1375 + 0.1 * np.arange(98), [10]])


def recordings(seed, count=5):
    """Returns recordings with scores that find some of the events."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        events, scores = [], rng.random((99, 2)) * 0.3
        for label in range(2):
            for start in (0.5, 3.5, 6.5):
                if rng.random() < 0.7:
                    end = start + rng.uniform(0.3, 2.5)
                    events.append((start, end, label))
                    shift = rng.normal(0, 0.2, 2)
                    found = (BORDERS[:-1] >= start + shift[0]) & (BORDERS[1:] <= end + shift[1])
                    scores[found, label] += rng.choice([0.1, 0.6])
        made.append(Recording(f"{i}.wav", BORDERS, scores, np.array(events).reshape(-1, 3)))
    return made


def test_f1_of_hand_counted_events():
    true = np.array([(1, 2, 0), (3, 13, 0), (20, 21, 1)], float)
    found = np.array(
        [
            (1.2, 2.2, 0),  # both ends exactly a collar away
            (1.1, 2.0, 0),  # of an event that has a match
            (3.0, 15.0, 0),  # the end within 20 % of the event
            (20.3, 21.0, 1),  # starts late
        ]
    )
    counts = count_events(true, found, 3)
    np.testing.assert_array_equal(counts, [[2, 2, 3], [0, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(f1(counts), [0.8, 0, np.nan])
    # Seconds 1, 3 to 12 are right, 2, 13 and 14 are not.
    np.testing.assert_array_equal(
        count_segments(true, found, 3), [[11, 11, 14], [1, 1, 1], [0, 0, 0]]
    )


def test_matching_takes_as_many_pairs_as_possible():
    true = np.array([(1.0, 2.0, 0), (1.3, 2.1, 0)])
    found = np.array([(1.15, 2.05, 0), (1.0, 1.95, 0)])
    # The first found event matches both; it has to leave the first true one to the second.
    np.testing.assert_array_equal(count_events(true, found, 1), [[2, 2, 2]])


@given(st.integers(0, 10**6))
def test_events_are_those_of_the_tracker_that_classify_uses(seed):
    scores = np.random.default_rng(seed).random((40, 2)).astype(np.float32)
    borders = BORDERS[:41]
    windows = [Window(*item) for item in zip(borders[:-1], borders[1:], scores, strict=True)]
    expected = [
        (event.start, event.end, LABELS.index(event.label))
        for event in find_events(windows, EventTracker(LABELS, ON, OFF))
    ]
    found = find_event_rows(scores, borders, ON, OFF)
    assert sorted(map(tuple, found.tolist())) == sorted(expected)


def test_f1_equals_that_of_sed_eval():
    sed_eval = _import("sed_eval")
    made = recordings(0)
    metrics = {
        "event_f1": sed_eval.sound_event.EventBasedMetrics(
            LABELS, t_collar=0.2, percentage_of_length=0.2
        ),
        "segment_f1": sed_eval.sound_event.SegmentBasedMetrics(LABELS, time_resolution=1.0),
    }
    for name, borders, scores, true in made:
        found = find_event_rows(scores, borders, ON, OFF)
        sides = [
            [
                {"file": name, "onset": start, "offset": end, "event_label": LABELS[int(label)]}
                for start, end, label in events.tolist()
            ]
            for events in (true, found)
        ]
        for metric in metrics.values():
            metric.evaluate(*sides)
    own = event_metrics(made)._asdict()
    for name, metric in metrics.items():
        expected = metric.results_class_wise_metrics()
        expected = [expected[label]["f_measure"]["f_measure"] for label in LABELS]
        assert 0.1 < min(expected) < max(expected) < 1
        np.testing.assert_allclose(own[name], expected, rtol=1e-12)


def test_psds_is_higher_for_better_scores_and_one_for_perfect_ones():
    _import("sed_scores_eval")
    made = recordings(1)
    perfect = [
        each._replace(
            borders=np.unique([0, 10, *each.events[:, :2].ravel()]),
            events=each.events,
        )
        for each in made
    ]
    for i, each in enumerate(perfect):
        middles = (each.borders[1:] + each.borders[:-1])[:, None] / 2
        scores = np.zeros((len(middles), 2))
        for start, end, label in each.events:
            scores[:, int(label)] += ((middles > start) & (middles < end))[:, 0]
        perfect[i] = each._replace(scores=scores)
    assert psds(perfect, LABELS) == pytest.approx({"psds1": 1, "psds2": 1})
    assert 0 < psds(made, LABELS)["psds1"] < 1


def test_psds_is_left_out_where_its_package_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "sed_scores_eval.base_modules.scores", None)
    assert psds(recordings(0), LABELS) is None


def test_accuracy_of_frames_counts_those_with_every_class_right():
    targets = np.array([[1, 1], [0, 0], [1, 0], [0, 1]], np.float32)
    logits = np.array([[1, 1], [-1, -1], [-1, -1], [1, 1]], np.float32)
    assert frame_metrics(logits, targets, 0.5).accuracy == 0.5
    assert frame_metrics(logits, targets, 0.5).loss == 0.5


def _import(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)
