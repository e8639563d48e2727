"""Chooses the fonts of class names, which may be in any script."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

MAX_LETTERS = 40  # of a class name beside an axis

# matplotlib's last resort draws a box for each letter.
PLACEHOLDERS = "Last Resort"


class DrawableNames(NamedTuple):
    """Class names as they are drawn.

    Attributes:
        names: the class names, or `LABEL_n` (n from 0) where no installed font has all letters.
        families: the font families that have the letters of `names`, for `fontfamily`.
        note: a sentence about the names that are replaced; '' if none is.
    """

    names: list[str]
    families: list[str]
    note: str


def drawable_names(labels: Sequence[str]) -> DrawableNames:
    """Returns class names that can be drawn, and the fonts to draw them with."""
    families, missing = choose_families("".join(labels))
    names = [
        label if label.isprintable() and not missing & set(label) else f"LABEL_{i}"
        for i, label in enumerate(labels)
    ]
    replaced = len(labels) - sum(map(str.__eq__, names, labels))
    note = "LABEL_n: no installed font has the letters of class n, from 0"
    return DrawableNames(names, families, note if replaced else "")


def short_names(labels: Sequence[str]) -> DrawableNames:
    """Returns the names that can be drawn, cut to `MAX_LETTERS`."""
    return drawable_names(
        [x if len(x) <= MAX_LETTERS else f"{x[: MAX_LETTERS - 1]}…" for x in labels]
    )


def choose_families(text: str) -> tuple[list[str], set[str]]:
    """Returns the default font families and those that have the letters which these lack.

    Returns:
        The families, in the order in which matplotlib looks a letter up, and the letters that no
        installed font has.
    """
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    families = list(rcParams["font.family"])
    missing = set(text) - _letters(findfont(FontProperties(family=families)))
    if not missing:
        return families, missing
    # Regular fonts: matplotlib logs a warning where a family has no normal weight.
    letters = {
        font.name: _letters(font.fname)
        for font in sorted(fontManager.ttflist, key=lambda font: font.name)
        if font.weight == 400 and font.style == "normal" and not font.name.startswith(PLACEHOLDERS)
    }
    while missing and letters:
        best = max(letters, key=lambda name: len(missing & letters[name]))
        if not missing & letters[best]:
            break
        families.append(best)
        missing -= letters[best]
    return families, missing


@cache
def _letters(file: str) -> frozenset[str]:
    """Returns the letters that a font file has."""
    from matplotlib.ft2font import FT2Font

    return frozenset(map(chr, FT2Font(file).get_charmap()))
