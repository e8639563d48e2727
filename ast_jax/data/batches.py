"""Makes batches, each as a function of its number alone.

Training is therefore the same for any number of workers, processes and restarts.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.audio.pcm import Waveform, to_float, to_int16
from ast_jax.data.clips import Clips
from ast_jax.data.mixup import mixup, sample_mixup
from ast_jax.data.sampler import balancing_weights, epoch_order, process_slice, step_position

Batch = dict[str, np.ndarray]


@dataclass
class InputBuilder:
    """Builds the arrays of a batch from which the model input is computed.

    Attributes:
        extractor: computes the model input of a waveform.
        on_device: False: builds `input_values`, float32 (batch, max_length, num_mel_bins). True:
            builds `waveforms`, int16 (batch, samples), zero-padded, and `lengths`, int32
            (batch,), from which `ast_jax.audio.fbank_jax.input_values` computes the model input.
    """

    extractor: ASTFeatureExtractor
    on_device: bool = False

    def empty(self, batch_size: int) -> Batch:
        """Returns uninitialized arrays for a number of clips."""
        frames = self.extractor.max_length
        if not self.on_device:
            shape = (batch_size, frames, self.extractor.num_mel_bins)
            return {"input_values": np.empty(shape, np.float32)}
        return {
            "waveforms": np.empty((batch_size, self.extractor.max_samples), np.int16),
            "lengths": np.empty(batch_size, np.int32),
        }

    def fill(self, batch: Batch, row: int, waveform: Waveform) -> None:
        """Writes one waveform into a row of the batch.

        One at a time, so that each reuses the memory of the one before: reading and mixing a
        whole batch at once takes twice as long.
        """
        if not self.on_device:
            self.extractor.fill(batch["input_values"][row], to_float(waveform))
            return
        padded = batch["waveforms"][row]
        length = min(len(waveform), len(padded))
        padded[:length] = to_int16(waveform[:length])
        padded[length:] = 0
        batch["lengths"][row] = length


@dataclass
class TrainBatches:
    """Makes the batch of each training step: inputs, and `targets` float32 (batch, classes).

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
    """

    clips: Clips
    input_builder: InputBuilder
    seed: int
    batch_size: int
    mixup: float = 0.0
    balanced: bool = False
    process: int = 0
    processes: int = 1
    _orders: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Computes the sampling weights and drops what batches do not need: workers get copies."""
        self.clips = self.clips._replace(names=[], samples=None)
        self._weights = balancing_weights(self.clips.targets) if self.balanced else None

    def __call__(self, step: int, into: Batch | None = None) -> Batch:
        """Makes this process's part of the batch of a training step.

        Args:
            step: counted from 0.
            into: a batch to overwrite; None for a new one.
        """
        part = process_slice(self.batch_size, self.process, self.processes)
        batch = _empty(self.input_builder, self.clips, part) if into is None else into
        indices = self.indices(step)
        for row, i in enumerate(range(self.batch_size)[part]):
            position = step * self.batch_size + i
            waveform, batch["targets"][row] = self._example(indices[i], position)
            self.input_builder.fill(batch, row, waveform)
        return batch

    def indices(self, step: int) -> list[int]:
        """Returns the clips in a step's batch, of all processes, without mixup partners."""
        epoch, start = step_position(step, len(self.clips.waveforms), self.batch_size)
        return self._order(epoch)[start : start + self.batch_size].tolist()

    def _example(
        self, index: int, position: int
    ) -> tuple[Waveform, Float32[np.ndarray, " classes"]]:
        clips = self.clips
        waveform, target = clips.waveforms[index], clips.target(index)
        partner, lam = sample_mixup(self.seed, position, self.mixup, len(clips.waveforms))
        if partner is None:
            return waveform, target
        mixed = mixup(waveform, clips.waveforms[partner], lam)
        return mixed, lam * target + (1 - lam) * clips.target(partner)

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
    targets = np.empty((rows, clips.targets.shape[1]), np.float32)
    return input_builder.empty(rows) | {"targets": targets}
