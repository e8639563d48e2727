"""Length buckets: batches of short clips have a shorter model input, and so fewer tokens.

An epoch's order of clips is cut into chunks of some batches. In each chunk clips are sorted by
bucket, and its batches are shuffled. So which clips share a batch depends on their lengths, and
all else is as without buckets: an epoch has the same clips, mixed with the same partners.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

# Batches that clips are sorted within. More of them waste less padding; fewer mix clips of
# different lengths better.
CHUNK = 32


class Buckets(NamedTuple):
    """The lengths that the model's input may have, ascending.

    Attributes:
        frames: of the inputs; the last is the model's `max_length`.
        longest: frames of the longest clip for each input but the last. No patch with a frame of
            such a clip is cut off, so that its logits are those with the longest input.
    """

    frames: tuple[int, ...]
    longest: tuple[int, ...]

    def bucket_of(self, num_frames: Int[np.ndarray, " clips"]) -> Int[np.ndarray, " clips"]:
        """Returns the index of the shortest input for clips of `num_frames`."""
        return np.searchsorted(self.longest, num_frames)


def make_buckets(max_length: int, patch_size: int, time_stride: int, number: int) -> Buckets:
    """Returns `number` lengths, with numbers of patch columns that are as even as can be.

    Args:
        max_length: of the model's input, in frames.
        patch_size: of the model.
        time_stride: of the model.
        number: of lengths, at most that of patch columns.
    """
    columns = (max_length - patch_size) // time_stride + 1
    of_each = [-(-columns * i // number) for i in range(1, number)]
    return Buckets(
        (*(patch_size + (n - 1) * time_stride for n in of_each), max_length),
        tuple(n * time_stride for n in of_each),
    )


def group_by_bucket(
    buckets: Int[np.ndarray, " slots"], batch_size: int, rng: np.random.Generator
) -> Int[np.ndarray, "batches batch_size"]:
    """Returns the slots of a chunk by batch: sorted by bucket, stably, and in a random order.

    Args:
        buckets: of the clip in each slot; whole batches.
        batch_size: the number of slots per batch.
        rng: shuffles the batches.
    """
    return rng.permutation(np.argsort(buckets, kind="stable").reshape(-1, batch_size))
