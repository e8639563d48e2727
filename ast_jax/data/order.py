"""Which clip comes when: a function of (seed, epoch), so that a position is a step number.

Of one seed the order draws from stream 0, mixup from 1 and synthetic sounds from 2.
"""

import numpy as np


def epoch_order(seed: int, epoch: int, num_clips: int) -> np.ndarray:
    """A permutation of the clips, int64 (num_clips,), the same on every process."""
    return np.random.default_rng([seed, 0, epoch]).permutation(num_clips)


def batch_indices(
    seed: int, first_step: int, last_step: int, num_clips: int, batch_size: int
) -> np.ndarray:
    """The clips of the training steps [first_step, last_step), int64 (steps, batch_size).

    An epoch is as many whole batches as the clips fill; the rest of its order is left out.

    Raises:
        ValueError: there are fewer clips than one batch takes.
    """
    per_epoch = steps_per_epoch(num_clips, batch_size)
    epochs: dict[int, np.ndarray] = {}
    rows = []
    for step in range(first_step, last_step):
        epoch, position = divmod(step, per_epoch)
        if epoch not in epochs:
            epochs = {epoch: epoch_order(seed, epoch, num_clips)}
        rows.append(epochs[epoch][position * batch_size : (position + 1) * batch_size])
    return np.stack(rows) if rows else np.empty((0, batch_size), np.int64)


def steps_per_epoch(num_clips: int, batch_size: int) -> int:
    """Whole batches in an epoch."""
    if num_clips < batch_size:
        raise ValueError(f"{num_clips} clips do not fill one batch of {batch_size}")
    return num_clips // batch_size
