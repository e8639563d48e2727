"""Creates, titles and saves figures, and marks frequencies on axes of mel bins."""

from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.audio.kaldi import mel_position
from ast_jax.fonts import choose_families
from ast_jax.io import atomic_write


def subplots(rows: int, columns: int, size: tuple[float, float], **options: Any) -> Any:
    """Returns a figure of a size in inches, and its axes."""
    # Not pyplot, which picks a window system; pods have none.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1)  # inches; by default labels touch the edge
    figure = Figure(figsize=size, layout=layout)
    return figure, figure.subplots(rows, columns, **options)


def save_figure(figure: Any, file: Path, *, replace: bool = True) -> None:
    """Writes a figure as a PNG, atomically; arguments are those of `atomic_write`."""
    with atomic_write(file, replace=replace) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def set_title(axes: Any, title: str) -> None:
    """Sets a left-aligned title of names in any script."""
    families, _ = choose_families(title)
    # parse_math=False: '$' in a name does not begin a formula.
    axes.set_title(title, loc="left", fontsize=10, parse_math=False, fontfamily=families)


def mel_ticks(num_mel_bins: int, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ticks for an axis on which mel bin i takes the range from i to i + 1.

    Returns:
        The places of octaves from 250 Hz on, and these frequencies in Hz.
    """
    octaves = 250 * 2 ** np.arange(8)
    places = mel_position(octaves, num_mel_bins, sampling_rate) + 0.5
    shown = (places >= 0) & (places <= num_mel_bins)
    return places[shown], octaves[shown]
