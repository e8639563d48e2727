"""Which clip comes when: a function of (seed, epoch), so that a position is a step number.

Of one seed the order draws from stream 0, mixup from 1 and synthetic sounds from 2.
"""

import numpy as np
from scipy.sparse import csr_array


def epoch_order(
    seed: int, epoch: int, num_clips: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """The clips of an epoch in their order, int64 (num_clips,), the same on every process.

    Without weights a permutation; with them as many draws with replacement, a clip's
    probability being proportional to its weight (num_clips,).
    """
    rng = np.random.default_rng([seed, 0, epoch])
    if weights is None:
        return rng.permutation(num_clips)
    return rng.choice(num_clips, num_clips, p=weights / weights.sum())


def balancing_weights(targets: np.ndarray | csr_array) -> np.ndarray:
    """Sampling weights (clips,) that favour clips of rare classes.

    A class weighs 1000 / (its clips + 0.01), and a clip what its classes weigh together
    (the original's egs/audioset/gen_weight_file.py).

    Args:
        targets: (clips, classes), 1 for a class that is heard.
    """
    counts = np.asarray(targets.sum(axis=0), np.float64)
    return np.asarray(targets @ (1000 / (counts + 0.01)), np.float64)


def step_position(step: int, num_clips: int, batch_size: int) -> tuple[int, int]:
    """The epoch of a training step, and where in its order the step's batch begins.

    An epoch is as many whole batches as the clips fill; the rest of its order is left out.

    Raises:
        ValueError: there are fewer clips than one batch takes.
    """
    epoch, place = divmod(step, steps_per_epoch(num_clips, batch_size))
    return epoch, place * batch_size


def process_slice(batch_size: int, process: int, processes: int) -> slice:
    """The part of every batch that process number `process` makes: contiguous, all equal.

    Raises:
        ValueError: the batch does not split evenly.
    """
    if batch_size % processes:
        raise ValueError(f"a batch of {batch_size} does not split over {processes} processes")
    share = batch_size // processes
    return slice(process * share, (process + 1) * share)


def steps_per_epoch(num_clips: int, batch_size: int) -> int:
    """Whole batches in an epoch."""
    if num_clips < batch_size:
        raise ValueError(f"{num_clips} clips do not fill one batch of {batch_size}")
    return num_clips // batch_size
