import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ast_jax.errors import InputError
from ast_jax.inference.events import Event, EventTracker, find_events, format_time
from ast_jax.inference.windows import Window


def windows_of(*scores, window=10.0, hop=5.0):
    """Windows of one class, or of several if a score is a tuple."""
    return [
        Window(i * hop, i * hop + window, np.atleast_1d(np.float32(each)))
        for i, each in enumerate(scores)
    ]


def spans(windows, tracker):
    return [(event.start, event.end) for event in find_events(windows, tracker)]


def test_overlapping_windows_of_one_sound_are_one_event():
    events = list(find_events(windows_of(0, 0.5, 1, 0.75, 0), EventTracker(["dog"], 0.5)))
    assert events == [Event(5.0, 25.0, "dog", 1.0, 0.75)]


def test_an_event_starts_at_on_and_lasts_to_off():
    windows = windows_of(0.4, 0.5, 0.4, 0.3, 0.4, 0.1, hop=10)
    assert spans(windows, EventTracker(["dog"], 0.5, 0.4)) == [(10, 30)]
    assert spans(windows, EventTracker(["dog"], 0.5, 0.3)) == [(10, 50)]
    assert spans(windows, EventTracker(["dog"], 0.5)) == [(10, 50)]  # off is .25
    assert spans(windows, EventTracker(["dog"], 0.51)) == []


def test_gaps_are_merged_and_short_events_dropped():
    windows = windows_of(1, 0, 1, 0, 0, 1, hop=10)
    assert spans(windows, EventTracker(["dog"], 1)) == [(0, 10), (20, 30), (50, 60)]
    assert spans(windows, EventTracker(["dog"], 1, max_gap=10)) == [(0, 30), (50, 60)]
    assert spans(windows, EventTracker(["dog"], 1, max_gap=20)) == [(0, 60)]
    merged = EventTracker(["dog"], 1, max_gap=10, min_duration=10.5)
    assert spans(windows, merged) == [(0, 30)]
    assert spans(windows, EventTracker(["dog"], 1, min_duration=10.5)) == []


def test_windows_that_touch_or_overlap_beyond_a_low_one_are_one_event():
    assert spans(windows_of(1, 0, 1), EventTracker(["dog"], 1)) == [(0, 20)]
    assert spans(windows_of(1, 0, 0, 1, hop=2), EventTracker(["dog"], 1)) == [(0, 16)]


def test_sound_that_no_window_has_heard_ends_an_event():
    assert spans(windows_of(1, 1, hop=15), EventTracker(["dog"], 1)) == [(0, 10), (15, 25)]
    assert spans(windows_of(1, 0.6, hop=15), EventTracker(["dog"], 1, 0.5)) == [(0, 10)]
    assert spans(windows_of(1, 0.6, hop=15), EventTracker(["dog"], 1, 0.5, max_gap=5)) == [(0, 25)]


def test_an_event_is_returned_with_the_first_window_after_which_it_cannot_go_on():
    tracker = EventTracker(["dog"], 1)
    updates = [tracker.update(window) for window in windows_of(1, 0, 0, 0)]
    # The window from 5 s is low, but one from 10 s would touch the event; one from 15 s does not.
    assert [len(events) for events in updates] == [0, 0, 1, 0]


def test_each_class_has_its_own_thresholds():
    windows = windows_of((0.3, 0.3), (0.6, 0.6), (0.2, 0.2), hop=10)
    tracker = EventTracker(["dog", "cat"], [0.5, 0.25], [0.2, 0.25])
    assert [event[:3] for event in find_events(windows, tracker)] == [
        (0, 20, "cat"),
        (10, 30, "dog"),
    ]


def test_a_tracker_starts_over_after_a_recording():
    tracker = EventTracker(["dog"], 0.5)
    first = list(find_events(windows_of(0, 1, 0.3), tracker))
    assert first == [Event(5.0, 20.0, "dog", 1.0, pytest.approx(0.65))]
    assert list(find_events(windows_of(0.3, 0), tracker)) == []
    assert tracker.finish() == []


def events_of_one_class(windows, on, off, min_duration, max_gap):
    """The definition, a window at a time, with times in whole units."""
    runs = []  # [start, end, scores]
    active = False
    for window in windows:
        start, end, score = window.start, window.end, window.scores[0]
        active = active and start - runs[-1][1] <= max_gap and score >= off
        if not active and score >= on:
            active = True
            if not runs or start - runs[-1][1] > max_gap:
                runs.append([start, end, []])
        if active:
            runs[-1][1] = end
            runs[-1][2].append(score)
    return [
        (start, end, max(scores), pytest.approx(np.mean(scores)))
        for start, end, scores in runs
        if end - start >= min_duration
    ]


@given(
    scores=st.lists(st.integers(0, 4), max_size=30),
    window=st.integers(1, 9),
    hop=st.integers(1, 9),
    off=st.integers(0, 3),
    min_duration=st.integers(0, 20),
    max_gap=st.integers(0, 12),
)
def test_events_are_those_of_the_definition(scores, window, hop, off, min_duration, max_gap):
    tenths = windows_of(*scores, window=window, hop=hop)
    expected = events_of_one_class(tenths, 3, off, min_duration, max_gap)
    # Times in seconds are rounded: 3 · 0.1 is not 0.3.
    windows = [Window(each.start * 0.1, each.end / 10, each.scores) for each in tenths]
    tracker = EventTracker(["dog"], 3, off, min_duration=min_duration / 10, max_gap=max_gap / 10)
    found = [
        (round(10 * event.start), round(10 * event.end), event.peak, event.mean)
        for event in find_events(windows, tracker)
    ]
    assert found == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on": -0.1}, "'on' of 'dog' is -0.1"),
        ({"on": [0.5, np.nan]}, "'on' of 'cat' is nan"),
        ({"on": [0.5, 0.5, 0.5]}, r"'on' have shape \(3,\)"),
        ({"on": "high"}, "'on' is not a number"),
        ({"on": 0.5, "off": [0.5, 0.6]}, "'off' of 'cat' is 0.6, over 'on', which is 0.5"),
        ({"on": 0.5, "min_duration": -1}, "min_duration is -1"),
        ({"on": 0.5, "max_gap": float("nan")}, "max_gap is nan"),
    ],
)
def test_unusable_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        EventTracker(["dog", "cat"], **arguments)


def test_unusable_windows_are_refused():
    tracker = EventTracker(["dog"], 0.5)
    tracker.update(Window(5.0, 15.0, np.float32([0.1])))
    with pytest.raises(InputError, match=r"the window at 0:00:05\.00 follows one at 0:00:05\.00"):
        tracker.update(Window(5.0, 15.0, np.float32([0.1])))
    with pytest.raises(InputError, match=r"0:00:10\.00 have shape \(2,\)"):
        tracker.update(Window(10.0, 20.0, np.float32([0.1, 0.2])))
    with pytest.raises(InputError, match="not finite"):
        tracker.update(Window(10.0, 20.0, np.float32([np.nan])))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00.00"), (59.999, "0:01:00.00"), (3723.45, "1:02:03.45"), (36e4, "100:00:00.00")],
)
def test_times_are_written_as_hours_minutes_and_seconds(seconds, text):
    assert format_time(seconds) == text
