"""Tests the choice of fonts for class names."""

import pytest
from matplotlib.font_manager import FontProperties, findfont, fontManager

from ast_jax.fonts import choose_families, drawable_names

DEFAULT = ["sans-serif"]


def test_common_names_are_drawn_in_the_default_font():
    labels = ["dog", "звук", "κύμα", "cash_$5_$10", ""]
    assert drawable_names(labels) == (labels, DEFAULT, "")


@pytest.fixture
def installed(monkeypatch):
    """Returns a function that makes some of matplotlib's families the only ones installed."""

    def install(*names):
        fonts = [font for font in fontManager.ttflist if font.name in names]
        monkeypatch.setattr(fontManager, "ttflist", fonts)

    return install


def test_a_font_that_has_the_missing_letters_is_added(installed):
    letter = "\U0001d4d0"  # of STIX, and not of DejaVu Sans
    installed("DejaVu Sans", "STIXGeneral", "cmr10")
    assert drawable_names(["dog", letter]) == (["dog", letter], [*DEFAULT, "STIXGeneral"], "")
    assert findfont(FontProperties(family="STIXGeneral")).endswith("STIXGeneral.ttf")


def test_names_with_letters_of_no_font_are_replaced_and_noted(installed):
    installed("DejaVu Sans", "Last Resort High-Efficiency")
    labels = ["dog", "猫の声", "two\nlines", "caf\udce9"]
    names, families, note = drawable_names(labels)
    assert names == ["dog", "LABEL_1", "LABEL_2", "LABEL_3"]
    assert families == DEFAULT
    assert note.startswith("LABEL_n: no installed font has the letters")


def test_no_font_at_all_leaves_the_letters_missing(installed):
    installed()
    assert choose_families("猫") == (DEFAULT, {"猫"})
