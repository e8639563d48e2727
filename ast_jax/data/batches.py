"""What a batch holds, as a function of its number alone.

That makes any number of workers, of processes and of restarts give the same training.
"""

from dataclasses import dataclass, field

import numpy as np

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.audio.kaldi import frame_sizes
from ast_jax.audio.pcm import to_float, to_int16
from ast_jax.data.clips import Clips
from ast_jax.data.mixup import draw, mix
from ast_jax.data.sampler import balancing_weights, epoch_order, process_slice, step_position

Batch = dict[str, np.ndarray]


@dataclass
class Inputs:
    """How waveforms become the part of a batch that the model's input is made of.

    Attributes:
        extractor: waveforms to model inputs.
        on_device: False: `input_values` float32 (batch, max_length, num_mel_bins). True: what
            `ast_jax.audio.fbank_jax.input_values` makes them of on the accelerator, `waveforms`
            int16 (batch, samples), padded with zeros, and `lengths` int32 (batch,).
    """

    extractor: ASTFeatureExtractor
    on_device: bool = False

    def empty(self, clips: int) -> Batch:
        """The part of a batch for that many clips, to be filled."""
        frames = self.extractor.max_length
        if not self.on_device:
            return {
                "input_values": np.empty((clips, frames, self.extractor.num_mel_bins), np.float32)
            }
        size, shift = frame_sizes(self.extractor.sampling_rate)
        samples = size + (frames - 1) * shift
        return {
            "waveforms": np.empty((clips, samples), np.int16),
            "lengths": np.empty(clips, np.int32),
        }

    def fill(self, batch: Batch, row: int, waveform: np.ndarray) -> None:
        """Puts one waveform (samples,), float32 or int16, into its row.

        One by one, as the memory of each is then used again for the next: a batch of them at
        once takes twice as long to read and mix.
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
    """The batch of each training step: inputs as `Inputs` has them and `targets`, float32.

    Attributes:
        clips: those to train on.
        inputs: waveforms to a part of a batch.
        seed: of the order and of mixup.
        batch_size: clips a step, of all processes together.
        mixup: the share of clips that are mixed with another.
        balanced: whether clips are drawn with replacement, rare classes more often, rather
            than each once an epoch.
        process: this process's number.
        processes: how many there are; each makes an equal part of every batch.
    """

    clips: Clips
    inputs: Inputs
    seed: int
    batch_size: int
    mixup: float = 0.0
    balanced: bool = False
    process: int = 0
    processes: int = 1
    _orders: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Weighs the clips, and drops what no batch needs: each worker gets a copy."""
        self.clips = self.clips._replace(names=[], samples=None)
        self._weights = balancing_weights(self.clips.targets) if self.balanced else None

    def __call__(self, step: int, into: Batch | None = None) -> Batch:
        """This process's part of the batch of training step `step`, counted from 0.

        It is written into the arrays of `into`, a batch made before, or into new ones.
        """
        part = process_slice(self.batch_size, self.process, self.processes)
        batch = _empty(self.inputs, self.clips, part) if into is None else into
        indices = self.indices(step)
        for row, place in enumerate(range(self.batch_size)[part]):
            position = step * self.batch_size + place
            waveform, batch["targets"][row] = self._example(indices[place], position)
            self.inputs.fill(batch, row, waveform)
        return batch

    def indices(self, step: int) -> list[int]:
        """Which clips the step's batch is of, on all processes; partners in mixes not counted."""
        epoch, start = step_position(step, len(self.clips.waveforms), self.batch_size)
        return self._order(epoch)[start : start + self.batch_size].tolist()

    def _example(self, index: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        clips = self.clips
        waveform, target = clips.waveforms[index], clips.target(index)
        partner, share = draw(self.seed, position, self.mixup, len(clips.waveforms))
        if partner is None:
            return waveform, target
        mixed = mix(waveform, clips.waveforms[partner], share)
        return mixed, share * target + (1 - share) * clips.target(partner)

    def _order(self, epoch: int) -> np.ndarray:
        # Batches of two epochs may be under way at once, in several threads: the dict is
        # replaced, never changed, and read once.
        orders = self._orders
        if epoch in orders:
            return orders[epoch]
        order = epoch_order(self.seed, epoch, len(self.clips.waveforms), self._weights)
        near = {key: orders[key] for key in orders if abs(key - epoch) == 1}
        self._orders = near | {epoch: order}
        return order


@dataclass
class EvaluationBatches:
    """Every clip once, in order: inputs, `targets` and `mask`, float32.

    The last batch is filled up with the first clip; `mask` (batch,) is 0 for those.

    Attributes:
        clips: those to evaluate on.
        inputs: waveforms to a part of a batch.
        batch_size: clips a batch, of all processes together.
        process: this process's number.
        processes: how many there are.
    """

    clips: Clips
    inputs: Inputs
    batch_size: int
    process: int = 0
    processes: int = 1

    def __len__(self) -> int:
        return -(-len(self.clips.waveforms) // self.batch_size)

    def __call__(self, number: int, into: Batch | None = None) -> Batch:
        """This process's part of batch `number`, written into `into` or new arrays."""
        part = process_slice(self.batch_size, self.process, self.processes)
        batch = into
        if batch is None:
            batch = _empty(self.inputs, self.clips, part)
            batch["mask"] = np.empty(part.stop - part.start, np.float32)
        count = len(self.clips.waveforms)
        for row, place in enumerate(range(self.batch_size)[part]):
            index = number * self.batch_size + place
            batch["mask"][row] = index < count
            index = index if index < count else 0
            batch["targets"][row] = self.clips.target(index)
            self.inputs.fill(batch, row, self.clips.waveforms[index])
        return batch


def _empty(inputs: Inputs, clips: Clips, part: slice) -> Batch:
    """Arrays for the rows `part` of a batch."""
    rows = part.stop - part.start
    targets = np.empty((rows, clips.targets.shape[1]), np.float32)
    return inputs.empty(rows) | {"targets": targets}
