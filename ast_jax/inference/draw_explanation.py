"""Draws explanations over the log-mel of the sound, as PNG files."""

from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.audio.kaldi import frame_sizes
from ast_jax.figures import mel_ticks, save_figure, set_title, subplots
from ast_jax.inference.explain import Explanation

DECIBELS = 10 / np.log(10)  # of a natural logarithm of energy
MAX_LETTERS = 80  # of a title
DYNAMIC_RANGE = 80  # dB below the loudest value; digital silence is far lower
LEAST_TOP = 2  # of a scale of colors, so that a nearly even map does not look uneven
HEADS_TOPS = (2, 30)  # least and most of a logarithmic scale of multiples of uniform attention


def draw_explanation(explanation: Explanation, file: Path, title: str = "") -> None:
    """Draws the sound's log-mel, and over it each map, as a PNG; padding is cut off.

    Values are multiples of a map's mean over the sound. Colors begin at 1 and end at the map's
    maximum, so that an even map has none. Heads are drawn as a table, a row for each layer, with
    one scale.

    Args:
        explanation: what to draw.
        file: a new file.
        title: of the picture, such as the sound's name.

    Raises:
        InputError: the file exists or cannot be written.
    """
    if explanation.method == "heads":
        figure = _draw_heads(explanation, title)
    else:
        figure = _draw_maps(explanation, title)
    save_figure(figure, file, replace=False)


def _draw_maps(explanation: Explanation, title: str) -> Any:
    """Draws one panel for each map below that of the log-mel."""
    maps = explanation.upsample()
    named = list(zip(explanation.labels, explanation.scores, strict=True))
    if explanation.method == "rollout":
        titles = ["attention rollout (the same for every class)"]
        maps, share = maps[None], explanation.padding_share[None]
        scores = "   ".join(f"{label} {score:.1%}" for label, score in named)
        title = f"{title}   {scores}" if title else scores
    else:
        titles = [f"{label}   score {score:.1%}" for label, score in named]
        share = explanation.padding_share
    heard = explanation.maps[..., : explanation.num_columns]
    means = heard.mean(axis=(-2, -1)).reshape(-1)
    figure, panels = subplots(
        1 + len(maps), 1, (9, 1.1 + 1.75 * (1 + len(maps))), sharex=True, sharey=True
    )
    decibels = explanation.log_mel * DECIBELS
    low, high = _decibel_range(decibels)
    picture = _draw_spectrogram(panels[0], explanation, decibels, cmap="magma", vmin=low, vmax=high)
    _set_title(panels[0], title or "log-mel")
    figure.colorbar(picture, ax=panels[0], label="log-mel (dB)", pad=0.01)
    for axes, values, mean, panel_title, on_padding in zip(
        panels[1:], maps, means, titles, share, strict=True
    ):
        _draw_spectrogram(axes, explanation, decibels, cmap="gray_r", vmin=low, vmax=2 * high - low)
        multiples = values / (mean or 1)
        top = max(multiples.max(), LEAST_TOP)
        picture = _draw_spectrogram(
            axes, explanation, multiples, cmap=_transparent_reds(), vmin=1, vmax=top
        )
        if on_padding >= 0.005:
            panel_title += f"   ({on_padding:.0%} on the padding behind the sound)"
        _set_title(axes, panel_title)
        label = f"{explanation.method}\n(× its mean)"
        figure.colorbar(picture, ax=axes, label=label, pad=0.01, extend="min")
    panels[-1].set_xlabel("time (s)")
    return figure


def _draw_heads(explanation: Explanation, title: str) -> Any:
    """Draws a table of maps, a row for each layer and a column for each head."""
    from matplotlib.colors import LogNorm

    maps = explanation.maps.mean(axis=2)[..., : explanation.num_columns]
    layers, heads = maps.shape[:2]
    figure, panels = subplots(
        layers + 1, heads, (max(1.5 + 1.2 * heads, 9), 2.4 + 0.7 * layers), squeeze=False,
        gridspec_kw={"height_ratios": [2.2] + [1] * layers},
    )  # fmt: skip
    for axes in panels[0]:
        axes.remove()
    spectrogram = figure.add_subplot(panels[0, 0].get_gridspec()[0, :])
    decibels = explanation.log_mel * DECIBELS
    low, high = _decibel_range(decibels)
    picture = _draw_spectrogram(
        spectrogram, explanation, decibels, cmap="magma", vmin=low, vmax=high
    )
    figure.colorbar(picture, ax=spectrogram, label="log-mel (dB)", pad=0.01)
    _set_title(spectrogram, title or "log-mel")
    spectrogram.set_xlabel("time (s)")
    multiples = np.maximum(maps * explanation.config.num_tokens, 1e-9)
    top = np.clip(np.exp(np.percentile(np.abs(np.log(multiples)), 99)), *HEADS_TOPS)
    for i, row in enumerate(panels[1:]):
        for j, axes in enumerate(row):
            picture = axes.imshow(
                multiples[i, j],
                origin="lower", aspect="auto", interpolation="nearest", cmap="RdBu_r",
                norm=LogNorm(1 / top, top, clip=True), extent=_grid_extent(explanation),
            )  # fmt: skip
            axes.set(xlim=spectrogram.get_xlim(), ylim=spectrogram.get_ylim())
            axes.set_xticks([])
            axes.set_yticks([])
            if i == 0:
                axes.set_title(f"head {j + 1}", fontsize=9)
        row[0].set_ylabel(f"layer {i + 1}", fontsize=9, rotation=0, ha="right", va="center")
    label = "attention of the class and\nthe distillation token (× uniform)"
    panels[-1, 0].set_xlabel("axes as above", fontsize=8)
    ticks = top ** np.array([-1, -0.5, 0, 0.5, 1])
    colorbar = figure.colorbar(
        picture, ax=panels[1:], label=label, pad=0.01, extend="both", aspect=30, shrink=0.8
    )
    colorbar.set_ticks(ticks, labels=[f"{each:.2g}" for each in ticks], minor=False)
    colorbar.minorticks_off()
    return figure


def _draw_spectrogram(
    axes: Any, explanation: Explanation, values: np.ndarray, **options: Any
) -> Any:
    """Draws (frames, mel_bins) values over seconds and kHz, and returns the picture."""
    mel_bins = explanation.config.num_mel_bins
    places, hertz = mel_ticks(mel_bins, explanation.sampling_rate)
    axes.set_yticks(places, [f"{each / 1000:g}" for each in hertz])
    axes.set_ylabel("frequency (kHz)")
    picture = axes.imshow(
        values.T, origin="lower", aspect="auto", interpolation="nearest",
        extent=_extent(explanation), **options,
    )  # fmt: skip
    axes.set_xlim(0, None)
    axes.set_facecolor(picture.cmap(0.0))  # of the half frame before the first center
    return picture


def _decibel_range(decibels: np.ndarray) -> tuple[float, float]:
    """Returns the ends of a scale of colors for a log-mel in dB."""
    low, high = np.percentile(decibels, [1, 99.9])
    return max(low, high - DYNAMIC_RANGE), max(high, low + 1)


def _extent(explanation: Explanation) -> tuple[float, float, float, float]:
    """Returns the edges of a picture of the sound's frames, in seconds and mel bins."""
    half, times = _frame_shift(explanation) / 2, explanation.frame_times
    return times[0] - half, times[-1] + half, 0, explanation.config.num_mel_bins


def _frame_shift(explanation: Explanation) -> float:
    """Returns the seconds from one frame to the next."""
    return frame_sizes(explanation.sampling_rate)[1] / explanation.sampling_rate


def _grid_extent(explanation: Explanation) -> tuple[float, float, float, float]:
    """Returns the edges of the sound's patches as cells that do not overlap, as `_extent`."""
    config, columns = explanation.config, explanation.num_columns
    half = config.time_stride * _frame_shift(explanation) / 2
    low = (config.patch_size - config.frequency_stride) / 2
    high = low + config.grid[0] * config.frequency_stride
    return explanation.times[0] - half, explanation.times[columns - 1] + half, low, high


def _set_title(axes: Any, title: str) -> None:
    """Sets a title, cut to `MAX_LETTERS`."""
    set_title(axes, title if len(title) <= MAX_LETTERS else f"{title[: MAX_LETTERS - 1]}…")


def _transparent_reds() -> Any:
    """Returns a colormap from transparent to red, which leaves the log-mel below visible."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(
        "transparent_reds", [(1, 0.6, 0, 0), (1, 0.35, 0, 0.55), (0.8, 0, 0.1, 0.85)]
    )
