"""Draws a training batch as the model sees it."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from ast_jax.config import TrainConfig
from ast_jax.data.training_data import load_data
from ast_jax.runs.plots import save_figure, subplots
from ast_jax.training.setup import (
    check_clips,
    make_augment,
    make_extractor,
    make_inputs,
    train_batches,
)
from ast_jax.training.step import clip_keys

MOST_CLIPS = 8


def show(config: TrainConfig, file: Path, number: int = 0) -> None:
    """Draws the first clips of training step `number`, before and after augmentation, as a PNG.

    Mixup is in both columns, as waveforms are mixed, and in the labels; masks, noise and shift
    are on the right. Values are the model's: (log-mel - mean) / (2·std).

    Raises:
        InputError: the recordings cannot be used, or there are fewer than one batch.
    """
    if not config.data.fold:  # a run of each: the first is as good as another
        config = replace(config, data=replace(config.data, fold=1))
    config.validate()
    data = load_data(config)
    check_clips(config, len(data.train.waveforms))
    extractor = make_extractor(config, data)
    batch = train_batches(config, data.train, extractor)(number)
    plain = jax.jit(make_inputs(config, extractor))(batch)
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    keys = clip_keys(key, 0, config.batch_size)
    augmented = make_augment(config, extractor)(keys, plain)
    titles = [describe_target(target, data.labels) for target in batch["targets"][:MOST_CLIPS]]
    before, after = (np.asarray(values)[:MOST_CLIPS] for values in (plain, augmented))
    draw_batch(before, after, titles, file, float(extractor.normalize(np.zeros(()))))


def describe_target(target: np.ndarray, labels: list[str]) -> str:
    """The classes of a clip, with their shares if it is mixed: '0.62 dog, 0.38 rain'."""
    heard = np.flatnonzero(target)
    order = heard[np.argsort(-target[heard], kind="stable")]
    shares = ["" if target[i] == 1 else f"{target[i]:.2f} " for i in order]
    names = [f"{share}{labels[i]}" for share, i in zip(shares, order, strict=True)]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def draw_batch(
    plain: np.ndarray, augmented: np.ndarray, titles: list[str], file: Path, padding: float
) -> None:
    """Draws (clips, frames, mel_bins) arrays side by side, a row a clip, as a PNG.

    `padding` is the value of padding and masks, of which the picture tells: it is no silence.
    """
    clips, frames, mel_bins = plain.shape
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
                extent=(0, frames / 100, 0, mel_bins),
                vmin=low,
                vmax=high,
                cmap="magma",
            )
        row[0].set_ylabel("mel bin")
        row[0].set_title(title, loc="left", fontsize=10)
    grid[0, 1].set_title("as the model sees it, masks and all", loc="left", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("seconds")
    label = f"(log-mel - mean) / (2 std); padding and masks are {padding:.2f}, a log-mel of 0"
    figure.colorbar(picture, ax=grid, label=label, aspect=40, pad=0.01)
    save_figure(figure, file)
