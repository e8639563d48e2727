"""Draws a training batch as the model sees it."""

from functools import partial
from pathlib import Path

import jax
import numpy as np

from ast_jax.audio.fbank_jax import batch_input_values
from ast_jax.config import TrainConfig
from ast_jax.data.batches import trim
from ast_jax.data.training_data import load_data
from ast_jax.errors import shorten
from ast_jax.fonts import drawable_names
from ast_jax.runs.plots import draw_batch
from ast_jax.training.cross_validation import fold_config
from ast_jax.training.initial import make_extractor
from ast_jax.training.setup import check_clips, make_train_batches
from ast_jax.training.step import augment_inputs, clip_keys, frames_before_padding, make_augment

MAX_CLIPS = 8


def plot_batch(config: TrainConfig, file: Path, step: int = 0) -> None:
    """Draws the first clips of training step `step`, before and after augmentation, as a PNG.

    Mixup is visible in both columns, as waveforms are mixed, and in the labels; masks, noise and
    shift only on the right. Values are the model's: (log-mel - mean) / (2·std).

    Raises:
        InputError: the recordings cannot be used, or there are fewer than one batch.
    """
    if config.runs_all_folds:
        config = fold_config(config, 1)
    config.validate()
    data = load_data(config)
    check_clips(config, len(data.train.waveforms))
    extractor = make_extractor(config, data)
    batch = trim(make_train_batches(config, data.train, extractor)(step))
    plain = jax.jit(partial(batch_input_values, extractor=extractor))(batch)
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    keys = clip_keys(key, 0, config.batch_size)
    augment = make_augment(config.augment, extractor)
    augmented = augment_inputs(augment, keys, plain, frames_before_padding(batch, plain))
    names = drawable_names(data.labels).names
    titles = [describe_target(target, names) for target in batch["targets"][:MAX_CLIPS]]
    before, after = (np.asarray(values)[:MAX_CLIPS] for values in (plain, augmented))
    padding = -extractor.mean / (2 * extractor.std)
    draw_batch(before, after, titles, file, padding, extractor.sampling_rate)


def describe_target(target: np.ndarray, labels: list[str]) -> str:
    """Returns the classes of a clip, with their shares if mixed: '0.62 dog, 0.38 rain'.

    Of a target by time (columns, classes) they are those of any column.
    """
    target = target.max(axis=0) if target.ndim > 1 else target
    present = np.flatnonzero(target)
    order = present[np.argsort(-target[present], kind="stable")]
    shares = ["" if target[i] == 1 else f"{target[i]:.2f} " for i in order]
    names = [f"{share}{labels[i]}" for share, i in zip(shares, order, strict=True)]
    return shorten(names, 4)
