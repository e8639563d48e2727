"""Finds clips that are in two sets, such as held-out clips that a model was trained on.

A run records hashes of its training clips in the file `TRAINED_FILE`, for evaluations later.
"""

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt64

from ast_jax.data.clips import Clips
from ast_jax.errors import InputError, quoted
from ast_jax.io import atomic_write
from ast_jax.npz import read_npz
from ast_jax.storage import read_run_file

TRAINED_FILE = "trained_clips.npz"


class ClipHashes(NamedTuple):
    """A hash of each clip's name and length, and one of its sound.

    Attributes:
        names: uint64 (clips,), of the last two parts of the name and the length in samples.
        sounds: uint64 (clips,), of the samples; None for clips on disk, as all would be read.
    """

    names: UInt64[np.ndarray, " clips"]
    sounds: UInt64[np.ndarray, " clips"] | None

    def found_in(self, others: "ClipHashes") -> Bool[np.ndarray, " clips"]:
        """Returns whether each clip is in another set: by its sound where both have it."""
        if self.sounds is not None and others.sounds is not None:
            return np.isin(self.sounds, others.sounds)
        return np.isin(self.names, others.names)


def hash_clips(clips: Clips) -> ClipHashes:
    """Computes the hashes of clips."""
    names = _hashes(
        "/".join([*str(name).split("/")[-2:], str(length)]).encode()
        for name, length in zip(clips.names, clips.lengths(), strict=True)
    )
    if clips.samples is not None:
        return ClipHashes(names, None)
    with ThreadPoolExecutor() as pool:  # hashing releases the GIL
        sounds = pool.map(lambda waveform: _hash(waveform.tobytes()), clips.waveforms)
        return ClipHashes(names, np.array(list(sounds), np.uint64))


def _hash(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest())


def _hashes(contents: Iterable[bytes]) -> UInt64[np.ndarray, " clips"]:
    return np.array([_hash(content) for content in contents], np.uint64)


def write_trained_clips(file: Path, hashes: ClipHashes) -> None:
    """Writes the hashes of training clips to a file.

    Raises:
        InputError: the file cannot be written.
    """
    arrays = {name: array for name, array in hashes._asdict().items() if array is not None}
    with atomic_write(file, replace=True) as temporary, temporary.open("wb") as out:
        np.savez(out, allow_pickle=False, **arrays)


def read_trained_clips(checkpoint: str | Path) -> ClipHashes | None:
    """Returns the hashes of the clips that a checkpoint was trained on; None if not recorded.

    Args:
        checkpoint: a run, a checkpoint in it, or the URL of a run; anything else has no record.

    Raises:
        InputError: the record is damaged.
    """
    content = read_run_file(checkpoint, TRAINED_FILE)
    if content is None:
        return None
    try:
        arrays = read_npz(io.BytesIO(content))
        hashes = ClipHashes(arrays["names"], arrays.get("sounds"))
    except (KeyError, ValueError, OSError) as error:
        raise _damaged(checkpoint, str(error)) from None
    for array in hashes:
        if array is not None and (array.dtype != np.uint64 or array.ndim != 1):
            raise _damaged(checkpoint, "its arrays are no hashes")
    return hashes


def _damaged(checkpoint: str | Path, reason: str) -> InputError:
    return InputError(
        f"{checkpoint}: {TRAINED_FILE} of its run is damaged ({reason}); remove that file"
    )


def overlap_note(clips: Clips, trained: ClipHashes, what: str = "clips") -> str:
    """Returns a clause that counts the clips that a model was trained on."""
    hashes = hash_clips(clips)
    shared = np.flatnonzero(hashes.found_in(trained))
    if not len(shared):
        return f"trained on none of the {len(hashes.names)} {what}"
    by_sound = hashes.sounds is not None and trained.sounds is not None
    how = "" if by_sound else " (compared by name and length)"
    return (
        f"trained on {len(shared)} of the {len(hashes.names)} {what}, such as "
        f"{quoted(clips.names[shared[0]])}{how}; scores on these say little about new sounds"
    )
