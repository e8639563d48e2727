"""Tests the plots of a run."""

import matplotlib.image
import numpy as np
import pytest

from ast_jax.runs.plots import draw_batch, draw_class_precisions, draw_confusion


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


def test_missing_glyphs_and_names_of_any_length_can_be_drawn(tmp_path):
    labels = ["\U000f0000", "猫の声", "x" * 1000]
    for draw in (confusion, lambda labels, file: precisions([1, 1, 1], labels, file)):
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
    draw_batch(np.zeros((1, 10, 8)), np.zeros((1, 10, 8)), ["silence"], tmp_path / "a.png", 0.5)
    assert read(tmp_path / "a.png").size
