"""Samples the order of clips, as a function of (seed, epoch): a position is a step number.

Each seed has independent random streams: 0 for the order, 1 for mixup, 2 for synthetic sounds, 3
for the order of batches within length buckets.
"""

import numpy as np
from jaxtyping import Float64, Int64
from scipy.sparse import csr_array


def epoch_order(
    seed: int, epoch: int, num_clips: int, weights: np.ndarray | None = None
) -> Int64[np.ndarray, " clips"]:
    """Returns the clips of an epoch in order, the same on every process.

    Args:
        seed: the seed of the training.
        epoch: counted from 0.
        num_clips: the number of clips in the data set, and in the epoch.
        weights: (num_clips,), for sampling with replacement with probabilities in proportion to
            them; None for a permutation.
    """
    rng = np.random.default_rng([seed, 0, epoch])
    if weights is None:
        return rng.permutation(num_clips)
    return rng.choice(num_clips, num_clips, p=weights / weights.sum())


def balancing_weights(targets: np.ndarray | csr_array) -> Float64[np.ndarray, " clips"]:
    """Returns sampling weights that favor clips of rare classes.

    The weight of a class is 1000 / (its number of clips + 0.01), that of a clip the sum over its
    classes, as in the original's egs/audioset/gen_weight_file.py.

    Args:
        targets: (clips, classes), 1 for each class of a clip.
    """
    counts = np.asarray(targets.sum(axis=0), np.float64)
    return np.asarray(targets @ (1000 / (counts + 0.01)), np.float64)


def step_position(step: int, num_clips: int, batch_size: int) -> tuple[int, int]:
    """Returns the epoch of a training step and the index in its order where the batch starts.

    The incomplete batch at the end of an epoch is dropped.

    Raises:
        ValueError: there are fewer clips than one batch takes.
    """
    epoch, step_in_epoch = divmod(step, steps_per_epoch(num_clips, batch_size))
    return epoch, step_in_epoch * batch_size


def process_slice(batch_size: int, process: int, processes: int) -> slice:
    """Returns the rows of every batch that process number `process` makes.

    Raises:
        ValueError: the batch size is not divisible by the number of processes.
    """
    if batch_size % processes:
        raise ValueError(f"a batch of {batch_size} does not split over {processes} processes")
    size = batch_size // processes
    return slice(process * size, (process + 1) * size)


def steps_per_epoch(num_clips: int, batch_size: int) -> int:
    """Returns the number of complete batches in an epoch.

    Raises:
        ValueError: there are fewer clips than one batch takes.
    """
    if num_clips < batch_size:
        raise ValueError(f"{num_clips} clips do not fill one batch of {batch_size}")
    return num_clips // batch_size
