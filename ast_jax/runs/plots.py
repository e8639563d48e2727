"""Pictures of a run, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.audio.kaldi import frame_sizes
from ast_jax.figures import mel_ticks, save_figure, set_title, subplots
from ast_jax.fonts import DrawableNames, short_names

MAX_INCHES = 20
MAX_NAMED = 60  # classes whose names and counts are legible within MAX_INCHES
EXTREMES = 25  # number of best and of worst classes to name when there are more than MAX_NAMED


def draw_loss(
    history: Sequence[Mapping[str, Any]],
    file: Path,
    chance: float | None = None,
    kept: tuple[int, int] | None = None,
) -> None:
    """Draws training and held-out loss by epoch, and accuracy and mAP beside, as a PNG.

    Args:
        history: a row per evaluation.
        file: to write.
        chance: the held-out loss of a prediction that is the same for all clips; None if unknown.
        kept: the first and the last epoch of the parameters that are kept; None to mark none.
    """
    figure, (left, right) = subplots(1, 2, (10, 4))
    epochs = [row["epoch"] for row in history]

    def values(name: str) -> np.ndarray:
        return np.array([row[name] for row in history], float)  # None becomes NaN: a gap

    left.plot(epochs, values("training_loss"), ".-", label="training")
    left.plot(epochs, values("loss"), ".-", label="held out")
    if chance is not None:
        left.axhline(chance, color="gray", linestyle=":", label=f"chance, {chance:.4g}")
    left.set(xlabel="epoch", ylabel="loss", title="loss")
    left.set_ylim(0, 1.05 * left.dataLim.ymax if np.isfinite(left.dataLim.ymax) else None)
    right.plot(epochs, values("accuracy"), ".-", label="accuracy")
    right.plot(epochs, values("mean_average_precision"), ".-", label="mAP")
    right.set(xlabel="epoch", ylim=(0, 1.05), title="held-out clips")
    for axes in (left, right):
        _mark_epochs(axes, kept)
        axes.legend()
        axes.grid(alpha=0.3)
    save_figure(figure, file)


def _mark_epochs(axes: Any, kept: tuple[int, int] | None) -> None:
    """Sets ticks at whole epochs, and marks the epochs from the first to the last of `kept`."""
    # By default the locator adds fractions where fewer than two whole numbers are in view.
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if kept is None:
        return
    first, last = kept
    if first == last:
        axes.axvline(last, color="tab:green", linestyle="--", zorder=1, label=f"kept: epoch {last}")
    else:
        label = f"kept: mean of epochs {first} to {last}"
        axes.axvspan(first, last, color="tab:green", alpha=0.15, label=label)


def draw_confusion(matrix: np.ndarray, labels: Sequence[str], file: Path, title: str = "") -> None:
    """Draws a confusion matrix as a PNG: rows are true classes, columns predicted ones.

    More than `MAX_NAMED` classes are drawn without names and counts.
    """
    drawable = short_names(labels)
    # 0.1 inches per letter leave room for the matrix beside the names.
    size = 0.1 * max(map(len, drawable.names)) + 0.4 * len(labels)
    width, height = max(size + 2.2, 5), max(size + 1.2, 3)  # with color bar, title and axis labels
    figure, axes = subplots(1, 1, (min(width, MAX_INCHES), min(height, MAX_INCHES)))
    picture = axes.imshow(
        matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1
    )
    figure.colorbar(picture, ax=axes, label="share of the row", shrink=0.8, aspect=30)
    axes.set(xlabel="predicted", ylabel="true")
    figure.suptitle(title, fontsize=10)  # may be wider than the matrix
    if len(labels) <= MAX_NAMED:
        ticks = range(len(labels))
        # parse_math=False: '$' in a name does not begin a formula.
        options = {"parse_math": False, "fontfamily": drawable.families}
        axes.set_xticks(ticks, drawable.names, rotation=90, **options)
        axes.set_yticks(ticks, drawable.names, **options)
        _add_note(figure, drawable)
        for true, predicted in zip(*np.nonzero(matrix), strict=True):
            dark = matrix[true, predicted] > matrix[true].sum() / 2
            axes.text(
                predicted, true, matrix[true, predicted],
                ha="center", va="center", color="white" if dark else "black", fontsize=8,
            )  # fmt: skip
    save_figure(figure, file)


def draw_class_precisions(precisions: np.ndarray, labels: Sequence[str], file: Path) -> None:
    """Draws the average precision of each class, best on top, as a PNG.

    Of more than `MAX_NAMED` classes the best and the worst are named, beside a curve of all.
    Classes without clips, whose precision is NaN, are omitted and counted in the title.
    """
    drawable = short_names(labels)
    known = np.flatnonzero(~np.isnan(precisions))
    order = known[np.argsort(-precisions[known], kind="stable")]
    title = f"{len(order)} classes"
    if len(order) < len(precisions):
        title += f"; {len(precisions) - len(order)} without clips left out"
    if len(order) <= MAX_NAMED:
        figure, axes = subplots(1, 1, (8, 2 + 0.25 * len(order)))
        _draw_bars(axes, precisions, drawable, order, title)
    else:
        figure, (curve, best, worst) = subplots(1, 3, (MAX_INCHES, 2 + 0.25 * EXTREMES))
        curve.plot(np.arange(1, len(order) + 1), precisions[order])
        mean = precisions[order].mean()
        curve.axhline(mean, color="gray", linestyle="--", label=f"mean {mean:.3f}")
        curve.set(xlabel="rank", ylabel="average precision", ylim=(0, 1.05), title=title)
        curve.legend()
        curve.grid(alpha=0.3)
        _draw_bars(best, precisions, drawable, order[:EXTREMES], f"the best {EXTREMES}")
        _draw_bars(worst, precisions, drawable, order[-EXTREMES:], f"the worst {EXTREMES}")
    _add_note(figure, drawable)
    save_figure(figure, file)


def _draw_bars(
    axes: Any, precisions: np.ndarray, drawable: DrawableNames, order: np.ndarray, title: str
) -> None:
    bars = axes.barh(range(len(order)), precisions[order])
    axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    names = [drawable.names[i] for i in order]
    axes.set_yticks(range(len(order)), names, parse_math=False, fontfamily=drawable.families)
    # Leaves room for the number beside a full bar.
    axes.set(xlabel="average precision", xlim=(0, 1.12), title=title)
    axes.set_ylim(max(len(order), 1) - 0.5, -0.5)  # the first on top
    axes.grid(axis="x", alpha=0.3)


def draw_folds(epochs: Sequence[int], accuracy: np.ndarray, file: Path) -> None:
    """Draws (folds, epochs) accuracy as a PNG: thin lines, and a thick one for the mean."""
    figure, axes = subplots(1, 1, (8, 5))
    for fold, values in enumerate(accuracy, start=1):
        axes.plot(epochs, values, ".-", linewidth=0.8, markersize=4, label=f"fold {fold}")
    mean, std = accuracy.mean(axis=0), accuracy.std(axis=0, ddof=1)
    axes.plot(epochs, mean, "o-k", linewidth=2.5, markersize=5, label="mean")
    best = int(mean.argmax())
    title = f"mean {mean[best]:.1%} ± {std[best]:.1%} at epoch {epochs[best]}"
    axes.axvline(epochs[best], color="gray", linestyle="--", linewidth=1)
    axes.set(xlabel="epoch", ylabel="accuracy of the fold held out", title=title)
    _mark_epochs(axes, None)
    axes.legend()
    axes.grid(alpha=0.3)
    save_figure(figure, file)


def draw_batch(
    plain: np.ndarray,
    augmented: np.ndarray,
    titles: list[str],
    file: Path,
    padding: float,
    sampling_rate: int,
) -> None:
    """Draws (clips, frames, mel_bins) arrays side by side, a row per clip, as a PNG.

    Args:
        plain: before augmentation.
        augmented: the same after augmentation.
        titles: of the clips.
        file: to write.
        padding: the value of padding and masks, for the color bar: it is louder than silence.
        sampling_rate: of the waveforms, in Hz, for the axes.
    """
    clips, frames, mel_bins = plain.shape
    seconds = frames * frame_sizes(sampling_rate)[1] / sampling_rate
    places, hertz = mel_ticks(mel_bins, sampling_rate)
    figure, grid = subplots(
        clips, 2, (13, 1 + 1.9 * clips), squeeze=False, sharex=True, sharey=True
    )
    low, high = np.percentile(plain, [0.5, 99.5])
    for row, title, *pair in zip(grid, titles, plain, augmented, strict=True):
        for axes, values in zip(row, pair, strict=True):
            picture = axes.imshow(
                values.T,
                origin="lower",
                aspect="auto",
                interpolation="nearest",
                extent=(0, seconds, 0, mel_bins),
                vmin=low,
                vmax=high,
                cmap="magma",
            )
        row[0].set_ylabel("Hz")
        row[0].set_yticks(places, hertz)
        set_title(row[0], title)
    grid[0, 1].set_title("as the model sees it, masks and all", loc="left", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("seconds")
    label = f"(log-mel - mean) / (2 std); padding and masks are {padding:.2f}, a log-mel of 0"
    figure.colorbar(picture, ax=grid, label=label, aspect=40, pad=0.01)
    save_figure(figure, file)


def _add_note(figure: Any, drawable: DrawableNames) -> None:
    """Adds the note about replaced names below a figure."""
    if drawable.note:
        figure.supxlabel(drawable.note, fontsize=8)
