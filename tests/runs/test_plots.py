"""Tests the plots of a run."""

import matplotlib.image
import numpy as np
import pytest

from ast_jax.audio.kaldi import mel_bank
from ast_jax.runs import plots
from ast_jax.runs.plots import draw_batch, draw_class_precisions, draw_confusion, draw_loss


def read(file):
    return matplotlib.image.imread(file)


def confusion(labels, file):
    """Draws the confusion matrix of a mostly correct classifier; returns RGBA in [0, 1]."""
    matrix = 9 * np.eye(len(labels), dtype=int)
    matrix[0, -1] = 3
    draw_confusion(matrix, labels, file)
    return read(file)


def precisions(values, labels, file):
    """Draws average precisions; returns RGBA in [0, 1]."""
    draw_class_precisions(np.array(values, float), labels, file)
    return read(file)


def blue(picture):
    """Returns the fraction of a picture that bars and lines cover."""
    return (picture[..., 2] > picture[..., 0] + 0.1).mean()


@pytest.mark.parametrize("count", [2, 10, 60, 61, 527, 2000])
def test_a_confusion_matrix_of_any_size_fits_the_picture(tmp_path, count):
    picture = confusion([f"class {i}" for i in range(count)], tmp_path / "x.png")
    assert max(picture.shape) <= 20 * 120
    assert blue(picture) > 0.1 / count


def test_class_names_are_not_drawn_as_formulas(tmp_path):
    file = tmp_path / "x.png"
    # The first unusual name is no valid formula.
    plain, odd = ["cash_ 5_ 10", "a^b  x "], ["cash_$5_$10", "a^b $x$"]
    for draw in (confusion, lambda labels, file: precisions([1, 0.5], labels, file)):
        assert draw(odd, file).shape == draw(plain, file).shape
        assert (draw(odd, file) != draw(plain, file)).any()


def test_names_of_any_letters_and_length_can_be_drawn(tmp_path):
    labels = ["\U000f0000\n\udce9", "猫の声", "x" * 1000]
    for draw in (confusion, lambda labels, file: precisions([1] * 3, labels, file)):
        assert blue(draw(labels, tmp_path / "x.png")) > 0.05


@pytest.mark.parametrize("count", [1, 2, 60, 61, 527])
def test_precisions_of_any_number_of_classes_fit_the_picture(tmp_path, count):
    labels = [f"class {i}" for i in range(count)]
    picture = precisions(np.linspace(0.5, 1, count), labels, tmp_path / "x.png")
    assert max(picture.shape) <= 20 * 120
    assert blue(picture) > 0.1


def test_precisions_are_sorted(tmp_path):
    rng = np.random.default_rng(0)
    for count in (3, 61):
        values = rng.permutation(np.linspace(0, 1, count))
        labels = np.array([f"class {i}" for i in range(count)])
        order = rng.permutation(count)
        found = precisions(values, list(labels), tmp_path / "x.png")
        moved = precisions(values[order], list(labels[order]), tmp_path / "x.png")
        np.testing.assert_array_equal(found, moved)


def test_a_class_without_clips_has_no_bar(tmp_path):
    labels = [f"class {i}" for i in range(3)]
    two = precisions([1, 0.5], labels[:2], tmp_path / "x.png")
    empty = precisions([1, 0.5, np.nan], labels, tmp_path / "x.png")
    assert empty.shape == two.shape
    assert blue(empty) == blue(two)
    assert blue(precisions([np.nan] * 3, labels, tmp_path / "x.png")) == 0


def test_a_single_constant_clip_can_be_drawn(tmp_path):
    draw_batch(
        np.zeros((1, 10, 8)), np.zeros((1, 10, 8)), ["silence"], tmp_path / "a.png", 0.5, 16000
    )
    assert read(tmp_path / "a.png").size


@pytest.fixture
def figures(monkeypatch):
    """Returns the figures that are drawn, which are not written."""
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, file: drawn.append(figure))
    return drawn


def history(epochs):
    names = ("training_loss", "loss", "accuracy", "mean_average_precision")
    return [{"epoch": i} | dict.fromkeys(names, 0.5) for i in epochs]


@pytest.mark.parametrize("epochs", [[1], [1, 2], [5, 10], range(1, 31)])
def test_epochs_are_whole_numbers(figures, epochs):
    draw_loss(history(epochs), None, 2.3, (1, 1))
    for axes in figures[0].axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == int(tick) for tick in ticks)


def test_the_loss_has_chance_and_the_kept_epochs(figures):
    draw_loss(history([1, 2, 3]), None, np.log(10), (2, 2))
    draw_loss(history([1, 2, 3]), None, None, (2, 3))
    single, average = (
        [text.get_text() for text in figure.axes[0].get_legend().get_texts()] for figure in figures
    )
    assert single == ["training", "held out", "chance, 2.303", "kept: epoch 2"]
    assert average == ["training", "held out", "kept: mean of epochs 2 to 3"]
    assert figures[0].axes[0].get_ylim()[1] > np.log(10)


def test_a_confusion_matrix_has_a_title_and_a_color_bar(figures):
    draw_confusion(np.eye(2, dtype=int), ["a", "b"], None, "20 clips, epoch 3 (last)")
    matrix, bar = figures[0].axes
    assert figures[0].get_suptitle() == "20 clips, epoch 3 (last)"
    assert bar.get_ylabel() == "share of the row"
    assert [text.get_text() for text in matrix.get_xticklabels()] == ["a", "b"]


def test_a_spectrogram_has_axes_in_seconds_and_hertz(figures):
    draw_batch(np.zeros((1, 128, 64)), np.zeros((1, 128, 64)), ["x"], None, 0.5, 16000)
    axes = figures[0].axes[0]
    assert axes.get_images()[0].get_extent() == [0, 1.28, 0, 64]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("seconds", "Hz")
    hertz = [int(text.get_text()) for text in axes.get_yticklabels()]
    assert hertz == [250, 500, 1000, 2000, 4000]
    weights = mel_bank(64, 1 << 16, 16000, 20.0, 0.0)  # 1024 bins are 250 Hz
    nearest = weights[:, [f * 1024 // 250 for f in hertz]].argmax(axis=0)
    np.testing.assert_array_equal(np.round(axes.get_yticks() - 0.5), nearest)
