"""The pictures of a run."""

import matplotlib.image
import numpy as np
import pytest

from ast_jax.training.report import draw_confusion


def draw(labels, file):
    """The confusion matrix of a classifier that is mostly right, as RGBA in [0, 1]."""
    matrix = 9 * np.eye(len(labels), dtype=int)
    matrix[0, -1] = 3
    draw_confusion(matrix, labels, file)
    return matplotlib.image.imread(file)


@pytest.mark.parametrize("count", [2, 10, 60, 61, 527, 2000])
def test_a_confusion_matrix_of_any_size_fits_its_picture(tmp_path, count):
    picture = draw([f"class {i}" for i in range(count)], tmp_path / "x.png")
    assert max(picture.shape) <= 20 * 120
    blue = (picture[..., 2] > picture[..., 0] + 0.1).mean()
    assert blue > 0.1 / count


def test_class_names_are_no_formulas(tmp_path):
    plain = draw(["cash", "dog"], tmp_path / "plain.png")
    # As a formula, the first name could not be read.
    odd = draw(["cash_$5_$10", "a^b $x$"], tmp_path / "odd.png")
    assert odd.shape == plain.shape
    assert (odd != plain).any()
