"""Makes batches, each as a function of its number alone.

Training is therefore the same for any number of workers, processes and restarts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32, Int

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.audio.pcm import Waveform, to_float, to_int16
from ast_jax.data.buckets import CHUNK, Buckets, group_by_bucket
from ast_jax.data.clips import Clips
from ast_jax.data.mixup import mixup, mixup_to_longer, sample_mixup
from ast_jax.data.sampler import (
    balancing_weights,
    epoch_order,
    process_slice,
    step_position,
    steps_per_epoch,
)

Batch = dict[str, np.ndarray]


@dataclass
class InputBuilder:
    """Builds the arrays of a batch from which the model input is computed.

    Attributes:
        extractor: computes the model input of a waveform.
        on_device: False: builds `input_values`, float32 (batch, max_length, num_mel_bins). True:
            builds `waveforms`, int16 (batch, samples), zero-padded, and `lengths`, int32
            (batch,), from which `ast_jax.audio.fbank_jax.input_values` computes the model input.
        mask_padding: whether to build `num_frames`, int32 (batch,), too: the frames of each clip
            before padding.
    """

    extractor: ASTFeatureExtractor
    on_device: bool = False
    mask_padding: bool = False

    def empty(self, batch_size: int) -> Batch:
        """Returns uninitialized arrays for a number of clips."""
        batch: Batch = {}
        if self.on_device:
            batch["waveforms"] = np.empty((batch_size, self.extractor.max_samples), np.int16)
            batch["lengths"] = np.empty(batch_size, np.int32)
        else:
            shape = (batch_size, self.extractor.max_length, self.extractor.num_mel_bins)
            batch["input_values"] = np.empty(shape, np.float32)
        if self.mask_padding:
            batch["num_frames"] = np.empty(batch_size, np.int32)
        return batch

    def fill(self, batch: Batch, row: int, waveform: Waveform) -> None:
        """Writes one waveform into a row of the batch.

        One at a time, so that each reuses the memory of the one before: reading and mixing a
        whole batch at once takes twice as long.
        """
        if self.mask_padding:
            batch["num_frames"][row] = self.extractor.num_frames(len(waveform))
        if not self.on_device:
            self.extractor.fill(batch["input_values"][row], to_float(waveform))
            return
        padded = batch["waveforms"][row]
        length = min(len(waveform), len(padded))
        padded[:length] = to_int16(waveform[:length])
        padded[length:] = 0
        batch["lengths"][row] = length


def trim(batch: Batch) -> Batch:
    """Returns a batch with its arrays cut to its length bucket, without `input_length`."""
    if "input_length" not in batch:
        return batch
    length = int(batch["input_length"][0])
    trimmed = {name: array for name, array in batch.items() if name != "input_length"}
    for name in trimmed.keys() & {"input_values", "waveforms"}:
        trimmed[name] = trimmed[name][:, :length]
    if "lengths" in trimmed:
        trimmed["lengths"] = np.minimum(trimmed["lengths"], length)
    return trimmed


@dataclass
class TrainBatches:
    """Makes the batch of each training step: inputs, and `targets` float32 (batch, *target_shape).

    With buckets all batches have the arrays of the longest input and `input_length`, int32 (1,),
    for `trim`: of the model input in frames, or of waveforms in samples. So batches of all steps
    have the same shapes on their way from other processes.

    Attributes:
        clips: the clips to train on.
        input_builder: builds the inputs.
        seed: of the sampling order and of mixup.
        batch_size: the number of clips per step, over all processes.
        mixup: the share of clips that are mixed with another.
        balanced: whether clips are sampled with replacement, rare classes more often, instead of
            each once per epoch.
        process: the index of this process.
        processes: the number of processes; each makes an equal part of every batch.
        buckets: the lengths of inputs, for which `input_builder` masks padding; None for one.
    """

    clips: Clips
    input_builder: InputBuilder
    seed: int
    batch_size: int
    mixup: float = 0.0
    balanced: bool = False
    process: int = 0
    processes: int = 1
    buckets: Buckets | None = None
    _orders: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _groups: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Computes the sampling weights and drops what batches do not need: workers get copies."""
        self._frames = np.zeros(0, int)  # of each clip, for buckets
        if self.buckets:
            count = self.input_builder.extractor.num_frames
            self._frames = np.array([count(samples) for samples in self.clips.lengths()])
        self.clips = self.clips._replace(names=[], samples=None)
        self._weights = balancing_weights(self.clips.targets) if self.balanced else None

    def __call__(self, step: int, into: Batch | None = None) -> Batch:
        """Makes this process's part of the batch of a training step.

        Args:
            step: counted from 0.
            into: a batch to overwrite; None for a new one.
        """
        part = process_slice(self.batch_size, self.process, self.processes)
        batch = into
        if batch is None:
            batch = _empty(self.input_builder, self.clips, part)
            if self.buckets:
                batch["input_length"] = np.empty(1, np.int32)
        if self.buckets:
            batch["input_length"][:] = self._input_length(step)
        positions, indices = self._positions(step), self.indices(step)
        for row, i in enumerate(range(self.batch_size)[part]):
            waveform, batch["targets"][row] = self._example(indices[i], int(positions[i]))
            self.input_builder.fill(batch, row, waveform)
        return batch

    def indices(self, step: int) -> list[int]:
        """Returns the clips in a step's batch, of all processes, without mixup partners."""
        epoch, start = step_position(step, len(self.clips.waveforms), self.batch_size)
        in_epoch = self._positions(step) - (step * self.batch_size - start)
        return self._order(epoch)[in_epoch].tolist()

    def _positions(self, step: int) -> Int[np.ndarray, " batch_size"]:
        """Returns the positions in the training, over all epochs, of a step's clips."""
        first = step * self.batch_size
        if not self.buckets:
            return np.arange(first, first + self.batch_size)
        per_epoch = steps_per_epoch(len(self.clips.waveforms), self.batch_size)
        step_in_epoch = step % per_epoch
        chunk, in_chunk = divmod(step_in_epoch, CHUNK)
        start = (step - in_chunk) * self.batch_size
        return start + self._group(step // per_epoch, chunk)[in_chunk]

    def _input_length(self, step: int) -> int:
        """Returns the length of a step's inputs: that of the longest clip's bucket."""
        assert self.buckets
        longest = self._mixed_frames(self.indices(step), self._positions(step)).max(keepdims=True)
        frames = self.buckets.frames[int(self.buckets.bucket_of(longest)[0])]
        if not self.input_builder.on_device:
            return frames
        return replace(self.input_builder.extractor, max_length=frames).max_samples

    def _mixed_frames(
        self, indices: Sequence[int], positions: Int[np.ndarray, " clips"]
    ) -> Int[np.ndarray, " clips"]:
        """Returns the frames of clips after mixup."""
        frames = self._frames[indices]
        for i, position in enumerate(positions.tolist() if self.mixup else ()):
            partner, _ = sample_mixup(self.seed, position, self.mixup, len(self._frames))
            if partner is not None:
                frames[i] = max(frames[i], self._frames[partner])
        return frames

    def _group(self, epoch: int, chunk: int) -> Int[np.ndarray, "batches batch_size"]:
        """Returns the order of a chunk of batches by length bucket, from the chunk's start."""
        groups = self._groups  # read once and replaced, as `_orders`
        if (epoch, chunk) in groups:
            return groups[epoch, chunk]
        assert self.buckets
        per_epoch = steps_per_epoch(len(self.clips.waveforms), self.batch_size)
        first, last = chunk * CHUNK, min((chunk + 1) * CHUNK, per_epoch)
        in_epoch = np.arange(first * self.batch_size, last * self.batch_size)
        positions = epoch * per_epoch * self.batch_size + in_epoch
        frames = self._mixed_frames(self._order(epoch)[in_epoch].tolist(), positions)
        rng = np.random.default_rng([self.seed, 3, epoch, chunk])
        group = group_by_bucket(self.buckets.bucket_of(frames), self.batch_size, rng)
        self._groups = dict(list(groups.items())[-1:]) | {(epoch, chunk): group}
        return group

    def _example(
        self, index: int, position: int
    ) -> tuple[Waveform, Float32[np.ndarray, "*target"]]:
        clips = self.clips
        waveform, target = clips.waveforms[index], clips.target(index)
        partner, lam = sample_mixup(self.seed, position, self.mixup, len(clips.waveforms))
        if partner is None:
            return waveform, target
        mix = mixup_to_longer if self.input_builder.mask_padding else mixup
        mixed = mix(waveform, clips.waveforms[partner], lam)
        return mixed, lam * target + (1 - lam) * clips.target(partner, len(mixed))

    def _order(self, epoch: int) -> np.ndarray:
        # Threads may make batches of two epochs at once: the dict is read once, and replaced
        # instead of changed.
        orders = self._orders
        if epoch in orders:
            return orders[epoch]
        order = epoch_order(self.seed, epoch, len(self.clips.waveforms), self._weights)
        adjacent = {key: orders[key] for key in orders if abs(key - epoch) == 1}
        self._orders = adjacent | {epoch: order}
        return order


@dataclass
class EvaluationBatches:
    """Makes batches of every clip once, in order: inputs, `targets` and `mask`, float32.

    The last batch is padded with the first clip; `mask` (batch,) is 0 for the padding.

    Attributes:
        clips: the clips to evaluate on.
        input_builder: builds the inputs.
        batch_size: the number of clips per batch, over all processes.
        process: the index of this process.
        processes: the number of processes; each makes an equal part of every batch.
    """

    clips: Clips
    input_builder: InputBuilder
    batch_size: int
    process: int = 0
    processes: int = 1

    def __len__(self) -> int:
        return -(-len(self.clips.waveforms) // self.batch_size)

    def __call__(self, number: int, into: Batch | None = None) -> Batch:
        """Makes this process's part of batch `number`, in `into` or in new arrays."""
        part = process_slice(self.batch_size, self.process, self.processes)
        batch = into
        if batch is None:
            batch = _empty(self.input_builder, self.clips, part)
            batch["mask"] = np.empty(part.stop - part.start, np.float32)
        count = len(self.clips.waveforms)
        for row, i in enumerate(range(self.batch_size)[part]):
            index = number * self.batch_size + i
            batch["mask"][row] = index < count
            index = index if index < count else 0
            batch["targets"][row] = self.clips.target(index)
            self.input_builder.fill(batch, row, self.clips.waveforms[index])
        return batch


def _empty(input_builder: InputBuilder, clips: Clips, part: slice) -> Batch:
    """Returns uninitialized arrays for the rows `part` of a batch."""
    rows = part.stop - part.start
    targets = np.empty((rows, *clips.target_shape), np.float32)
    return input_builder.empty(rows) | {"targets": targets}
