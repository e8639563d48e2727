"""The scores of a frame-level model: a window for each column of a recording of any length."""

from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.columns import Columns
from ast_jax.errors import InputError
from ast_jax.inference.batching import count_frames
from ast_jax.inference.windows import Window, WindowInput, WindowSlicer, score_windows
from ast_jax.models.config import ASTConfig


def check_no_window(window: float | None, hop: float | None) -> None:
    """Raises InputError if the length of windows or their hop is given."""
    if window is not None or hop is not None:
        raise InputError(
            "the model is frame-level, and its windows are the columns that it scores: leave "
            "window and hop out"
        )


def column_slicer(extractor: ASTFeatureExtractor, columns: Columns) -> WindowSlicer:
    """Returns the slicer of whole inputs with columns that follow each other."""
    rate = columns.sampling_rate
    hop = columns.per_input * columns.hop
    return WindowSlicer(extractor, columns.input_samples / rate, hop / rate)


def score_columns(
    inputs: Iterable[WindowInput],
    slicer: WindowSlicer,
    columns: Columns,
    score: Callable[[np.ndarray], jax.Array],
    batch_size: int,
) -> Iterator[Window]:
    """Yields the scores of the columns of a recording, which follow each other without gap.

    Args:
        inputs: the recording, in windows of the model's input, `columns.per_input` columns apart.
        slicer: that cuts them.
        columns: of the model.
        score: computes (batch, max_length, mel_bins) → (batch, columns, classes), on the device.
        batch_size: inputs that the device computes at once.

    Raises:
        InputError: as `score_windows`.
    """
    done, last = 0, None
    try:
        for window in score_windows(move_last_back(inputs, columns), score, batch_size):
            first = round(window.start * columns.sampling_rate / columns.hop)
            count = min(columns.per_input, columns.count(_samples(window, columns)))
            for column in range(done, first + count):
                if last is not None:
                    yield last
                start, end = columns.border(column), columns.border(column + 1)
                last = Window(start, end, window.scores[column - first])
                done = column + 1
    except InputError:
        if last is not None:
            yield last
        raise
    if last is not None:
        yield last._replace(end=slicer.seconds)


def highest_scores(
    scores: Float[np.ndarray, "batch columns classes"],
    inputs: Float[np.ndarray, "batch frames mel_bins"],
    config: ASTConfig,
    extractor: ASTFeatureExtractor,
) -> Float[np.ndarray, "batch classes"]:
    """Returns the highest scores over time of each input, without those of padding."""
    frames = np.asarray(count_frames(jnp.asarray(inputs), extractor))
    count = np.maximum(1, (frames - config.patch_size) // config.time_stride + 1)
    is_padding = np.arange(scores.shape[1]) >= count[:, None]
    return np.where(is_padding[..., None], -np.inf, scores).max(axis=1)


def move_last_back(inputs: Iterable[WindowInput], columns: Columns) -> Iterator[WindowInput]:
    """Yields a recording's inputs, the last of several moved back to end with the recording.

    So it has sound instead of padding, as in training. It is left out if it has no new column.
    """
    before = None
    for window in inputs:
        samples = _samples(window, columns)
        if before is None or samples == columns.input_samples:
            yield window
        elif samples >= columns.size:
            moved = columns.per_input - columns.count(samples)
            yield WindowInput(
                window.start - moved * columns.hop / columns.sampling_rate,
                window.end,
                _join(before.input_values, window.input_values, moved, columns),
            )
        before = window


def _join(before: np.ndarray, after: np.ndarray, moved: int, columns: Columns) -> np.ndarray:
    """Returns the input that begins so many columns before `after`, which follows `before`."""
    stride = columns.hop // columns.shift
    distance = columns.per_input * stride  # in frames, from one to the other
    rows = np.concatenate([before[distance - moved * stride :], after[len(before) - distance :]])
    return rows[: len(before)]


def _samples(window: Window | WindowInput, columns: Columns) -> int:
    return round((window.end - window.start) * columns.sampling_rate)
