import matplotlib.image
import numpy as np
import pytest

from ast_jax.errors import InputError
from ast_jax.inference.events import Event
from ast_jax.inference.timeline import draw_timeline, time_ticks
from ast_jax.inference.windows import Window


def draw(file, scores, events=(), labels=None, hop=5.0):
    """Draws (windows, classes) scores; returns RGBA in [0, 1]."""
    labels = labels or [f"class {i}" for i in range(scores.shape[1])]
    windows = [Window(i * hop, i * hop + 10, row) for i, row in enumerate(np.float32(scores))]
    file.unlink(missing_ok=True)
    draw_timeline(file, windows, events, labels, "dog.wav")
    return matplotlib.image.imread(file)


def orange(picture):
    return (picture[..., 0] > 0.9) & (picture[..., 2] < 0.2)


def dark_blue(picture):
    return (picture[..., 2] > picture[..., 0] + 0.3) & (picture[..., 0] < 0.2)


@pytest.mark.parametrize(("windows", "classes"), [(1, 1), (3, 527), (7200, 4)])
def test_recordings_of_any_length_and_classes_of_any_number_fit(tmp_path, windows, classes):
    scores = np.zeros((windows, classes))
    scores[windows // 2, 0] = 1
    seconds = 5.0 * (windows // 2)
    events = [Event(seconds, seconds + 10, "class 0", 1.0, 1.0)]
    picture = draw(tmp_path / "x.png", scores, events)
    assert dark_blue(picture).any()
    assert orange(picture).any()
    assert max(picture.shape) <= 20 * 120


def test_rows_are_the_classes_with_events_or_those_with_the_highest_scores(tmp_path):
    scores = np.zeros((4, 30))
    scores[0, 28], scores[0, 29] = 0.9, 1
    low = np.zeros_like(scores)
    low[0, 28] = 0.9
    event = [Event(0.0, 10.0, "class 28", 0.9, 0.9)]
    with_event = draw(tmp_path / "x.png", scores, event)
    np.testing.assert_array_equal(with_event, draw(tmp_path / "x.png", low, event))
    assert with_event.shape[0] < draw(tmp_path / "x.png", scores).shape[0]  # one row, twenty rows


def test_a_bar_spans_its_event(tmp_path):
    short = draw(tmp_path / "x.png", np.zeros((39, 1)), [Event(50.0, 60.0, "class 0", 1.0, 1.0)])
    long = draw(tmp_path / "x.png", np.zeros((39, 1)), [Event(50.0, 150.0, "class 0", 1.0, 1.0)])
    width_short, width_long = (orange(picture).any(axis=0).sum() for picture in (short, long))
    assert width_long / width_short == pytest.approx(10, rel=0.1)


def test_names_of_any_letters_and_length_can_be_drawn(tmp_path):
    labels = ["\U000f0000\n\udce9", "猫の声 $a", "x" * 1000]
    assert dark_blue(draw(tmp_path / "x.png", np.ones((2, 3)), labels=labels)).any()


def test_an_existing_file_and_no_windows_are_refused(tmp_path):
    (tmp_path / "old.png").touch()
    windows = [Window(0.0, 10.0, np.zeros(1, np.float32))]
    with pytest.raises(InputError, match="exists already"):
        draw_timeline(tmp_path / "old.png", windows, [], ["dog"])
    with pytest.raises(InputError, match="no windows"):
        draw_timeline(tmp_path / "new.png", [], [], ["dog"])


@pytest.mark.parametrize(
    ("end", "texts"),
    [
        (0.5, ["0:00:00.00", "0:00:00.10"]),
        (10, ["0:00:00", "0:00:02"]),
        (90, ["0:00:00", "0:00:10"]),
        (600, ["0:00:00", "0:02:00"]),
        (36000, ["0:00:00", "2:00:00"]),
        (1e7, ["0:00:00", "2777:46:40"]),
    ],
)
def test_ticks_are_round_times(end, texts):
    ticks, names = time_ticks(0, end)
    assert names[:2] == texts
    assert 2 <= len(ticks) <= 10
    assert ticks[-1] <= end + 1e-9
