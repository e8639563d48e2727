"""The dataclasses that make up an experiment's configuration.

A file in `configs/` returns a `TrainConfig` from `get_config()`. The command line changes its
fields: `ast-jax train demo --optimizer.learning-rate 2e-5`.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Literal

from ast_jax.errors import InputError, first_line, quoted
from ast_jax.fields import Range, check_fields
from ast_jax.models.config import ASTConfig

BELOW_ONE = 1 - 1e-9


@dataclass(slots=True)  # a misspelled field raises
class Data:
    """Fields shared by all kinds of data.

    Attributes:
        balanced: sample training clips with replacement, clips of rare classes more often.
        workers: processes that make batches; 0 uses threads. Use them with prepared sets: data
            in memory is copied to each worker.
    """

    kind: ClassVar[str]

    balanced: bool = False
    workers: Annotated[int, Range(0, 1024)] = 0


@dataclass(slots=True)
class SyntheticData(Data):
    """Ten classes of generated sounds, held in memory.

    Attributes:
        train_clips: training clips per class.
        evaluation_clips: held-out clips per class.
    """

    kind: ClassVar[str] = "synthetic"

    train_clips: Annotated[int, Range(1, 10**6)] = 100
    evaluation_clips: Annotated[int, Range(1, 10**6)] = 20


@dataclass(slots=True)
class FolderData(Data):
    r"""A folder of sound files per class, held in memory.

    Attributes:
        dir: the folder, or its URL, which is downloaded.
        holdout: share of the files that is held out, by file name, where `dir` has no folders
            `train` and `test`.
        stratify: hold out the same share of each class; otherwise each file by itself, so that
            none changes sides when others are added. Runs of earlier versions keep the latter.
        group: regular expression for the recording that a file is a piece of, such as '^(.*)_\d+'
            for rain_001.wav: its first group, or what it matches in the path below the class
            folder. Pieces of a recording are held out together, always stratified; '' for none.
        recursive: read subfolders of class folders, too. Runs of earlier versions do not.
        scale_loud: divide clips that go beyond 1 by their peak, instead of clipping them.
    """

    kind: ClassVar[str] = "folder"

    dir: str = ""
    holdout: Annotated[float, Range(1e-6, BELOW_ONE)] = 0.2
    stratify: bool = True
    group: str = ""
    recursive: bool = True
    scale_loud: bool = False

    def validate(self) -> None:
        """Raises `InputError` for the first field that cannot be used."""
        check_fields(self)
        try:
            re.compile(self.group)
        except (re.error, OverflowError, RecursionError) as error:
            raise InputError(
                f"group is {quoted(self.group)}, not a regular expression ({first_line(error)}); "
                f"correct it"
            ) from None


@dataclass(slots=True)
class ESC50Data(Data):
    """Recordings in the layout of the ESC-50 repository, held in memory.

    Attributes:
        dir: the folder, or its URL, which is downloaded.
        fold: fold to hold out, 1 to 5; 0 trains once per fold.
        scale_loud: divide clips that go beyond 1 by their peak, instead of clipping them.
    """

    kind: ClassVar[str] = "esc50"

    dir: str = ""
    fold: Annotated[int, Range(0, 5)] = 1
    scale_loud: bool = False


@dataclass(slots=True)
class PreparedData(Data):
    """A set that `ast-jax prepare` wrote, read clip by clip.

    Attributes:
        dir: the set's folder, or one that holds several sets, or its URL, which is downloaded.
        name: source of the set, where `dir` holds several.
        digest: digest that the set's source must have; '' accepts any.
        train: splits to train on, such as 'balanced+unbalanced'; '' for the benchmark's own.
        evaluation: split to evaluate on; '' for the benchmark's own.
        test: split on which the final parameters are tested; '' for none.
        fold: fold to hold out of ESC-50, 1 to 5, or UrbanSound8K, 1 to 10; 0 trains once per fold.
            Other sets have no folds.
    """

    kind: ClassVar[str] = "prepared"

    dir: str = ""
    name: str = ""
    digest: str = ""
    train: str = ""
    evaluation: str = ""
    test: str = ""
    fold: Annotated[int, Range(0, 10)] = 1


@dataclass(slots=True)
class StrongData(Data):
    """Recordings with the start and the end of each sound, held in memory: trains on frames.

    Attributes:
        train: CSV or TSV file with a row per event: filename, start (or onset) and end (or offset)
            in seconds, and label.
        evaluation: list of the events in held-out recordings; '' to hold recordings out.
        dir: folder of the recordings, which may be in subfolders; '' for that of each list.
        evaluation_dir: folder of the held-out recordings, if another.
        holdout: share of the recordings that is held out without `evaluation`, by file name.
        scale_loud: divide recordings that go beyond 1 by their peak, instead of clipping them.
    """

    kind: ClassVar[str] = "strong"

    train: str = ""
    evaluation: str = ""
    dir: str = ""
    evaluation_dir: str = ""
    holdout: Annotated[float, Range(1e-6, BELOW_ONE)] = 0.2
    scale_loud: bool = False


DATA_KINDS: dict[str, type[Data]] = {
    kind.kind: kind for kind in (SyntheticData, FolderData, ESC50Data, PreparedData, StrongData)
}


@dataclass(slots=True)  # a misspelled field raises
class FrontendConfig:
    """Computation of the input from waveforms; the model has frames and mel bins.

    Attributes:
        sampling_rate: in Hz.
        mean: mean of the log-mels, or None to measure it on the training clips.
        std: standard deviation of the log-mels, or None to measure it.
        on_device: compute log-mels on the accelerator, from int16 waveforms, instead of on the
            host with NumPy. For int16 recordings both agree to float32 rounding; mixed or
            resampled waveforms are rounded to 16 bits first.
    """

    sampling_rate: Annotated[int, Range(1000, 10**6)] = 16000
    mean: Annotated[float | None, Range(-1e6, 1e6)] = None
    std: Annotated[float | None, Range(1e-6, 1e6)] = None
    on_device: bool = False


@dataclass(slots=True)  # a misspelled field raises
class AugmentConfig:
    """Augmentation of training inputs.

    Attributes:
        frequency_mask: maximum SpecAugment mask, in mel bins; 0 for none.
        time_mask: maximum SpecAugment mask, in frames; 0 for none.
        noise: add noise of random level, as the original does for Speech Commands.
        roll: maximum circular shift in time, in frames; 0 for none.
        mixup: share of the clips that are mixed with another, 0 to 1.
        patchout_frequency: rows of patches dropped from each clip (structured Patchout), which
            speeds up training; 0 for none.
        patchout_time: columns of patches dropped.
    """

    frequency_mask: Annotated[int, Range(0)] = 0
    time_mask: Annotated[int, Range(0)] = 0
    noise: bool = False
    roll: Annotated[int, Range(0)] = 0
    mixup: Annotated[float, Range(0, 1)] = 0.0
    patchout_frequency: Annotated[int, Range(0)] = 0
    patchout_time: Annotated[int, Range(0)] = 0


@dataclass(slots=True)  # a misspelled field raises
class OptimizerConfig:
    """The original's Adam, or AdamW, and the learning rate schedule.

    Attributes:
        kind: 'adam' (weight decay is L2, added to the gradient) or 'adamw' (decoupled).
        learning_rate: the maximum.
        schedule: 'constant', 'cosine' (to zero at the last step) or 'multi_step' (multiplied by
            `decay` at the end of epochs).
        decay_start: first epoch after which 'multi_step' decays.
        decay_every: epochs between decays.
        decay: factor of a decay.
        warmup_steps: steps of linear warm-up from zero.
        warmup_interval: steps between two updates of the rate during warm-up.
        b1: decay of Adam's first moment.
        b2: decay of Adam's second moment.
        eps: added to the root of the second moment.
        weight_decay: L2 for 'adam', on all parameters; for 'adamw' on matrices only.
        grad_clip_norm: maximum global norm of the gradient; 0 for no clipping.
        layer_decay: factor of the learning rate from each layer to the layer below.
        ema_decay: decay of a moving average of the parameters, which is then evaluated and
            saved instead of them; 0 for none.
    """

    kind: Literal["adam", "adamw"] = "adam"
    learning_rate: Annotated[float, Range(0, 1e3)] = 1e-4
    schedule: Literal["constant", "cosine", "multi_step"] = "constant"
    decay_start: Annotated[int, Range(1)] = 1
    decay_every: Annotated[int, Range(1)] = 1
    decay: Annotated[float, Range(0, 1)] = 0.5
    warmup_steps: Annotated[int, Range(0)] = 0
    warmup_interval: Annotated[int, Range(1)] = 1
    b1: Annotated[float, Range(0, BELOW_ONE)] = 0.95
    b2: Annotated[float, Range(0, BELOW_ONE)] = 0.999
    eps: Annotated[float, Range(1e-30, 1)] = 1e-8
    weight_decay: Annotated[float, Range(0, 1e3)] = 5e-7
    grad_clip_norm: Annotated[float, Range(0, 1e6)] = 0.0
    layer_decay: Annotated[float, Range(1e-6, 1)] = 1.0
    ema_decay: Annotated[float, Range(0, BELOW_ONE)] = 0.0


@dataclass(slots=True)  # a misspelled field raises
class TrainConfig:
    """One experiment.

    Attributes:
        workdir: folder of the run, created if missing; an interrupted run resumes there. A URL,
            gs://… or s3://…, is uploaded during the run.
        init_from: checkpoint to start from, or its URL; '' for random weights. The model has
            its size unless `model` sets another, which is refused; strides, length, mel bins and
            classes may differ, see `adapt_params`.
        model: the model; the data sets its labels.
        loss: 'cross_entropy' (one class per clip) or 'binary_cross_entropy' (any number).
        label_smoothing: share of a training target that is spread over all classes.
        batch_size: clips per step, over all devices of all processes.
        length_buckets: lengths of input that batches have, the longest of which is
            `model.max_length`: short clips share batches of fewer tokens, within chunks of 32
            batches. Each length is compiled once. Needs `model.mask_padding`.
        grad_accum_steps: microbatches that each device splits its share of a batch into.
        remat: what the backward pass recomputes: 'none', 'norms_and_activations' (LayerNorm and
            GELU: a quarter of the memory), or 'everything' (each layer keeps its input alone: a
            sixth of the default's memory for up to a third more time).
        num_epochs: passes over the training clips; may grow when a run resumes.
        evaluate_every: epochs between evaluations, each with a checkpoint.
        checkpoint_every_steps: steps between additional checkpoints; 0 for none.
        max_to_keep: newest checkpoints to keep, beside the best.
        metric: metric of the best epoch, 'mean_average_precision' or 'accuracy'; of equally good
            epochs the first is the best.
        average_from: first epoch whose parameters are averaged; 0 for no average.
        average_to: last epoch of the average; 0 for the last of the run.
        cumulative: also evaluate the mean prediction of all evaluations so far.
        final_params: parameters that the run results in: of the 'last' epoch, of the 'best', or
            the 'average'.
        skip_nonfinite: steps with a non-finite loss or gradient that may be skipped before the
            run stops.
        parallel: how the step is mapped over devices, 'shard_map' or 'pmap'.
        shard_optimizer: shard the optimizer state over the devices (ZeRO-1).
        profile_steps: steps that `jax.profiler` traces into WORKDIR/profile; 0 for none.
        seed: of weights, order and augmentation.
    """

    workdir: str = ""
    init_from: str = ""
    model: ASTConfig = field(default_factory=ASTConfig)
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    data: SyntheticData | FolderData | ESC50Data | PreparedData | StrongData = field(
        default_factory=FolderData
    )
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy"
    label_smoothing: Annotated[float, Range(0, BELOW_ONE)] = 0.0
    batch_size: Annotated[int, Range(1)] = 32
    length_buckets: Annotated[int, Range(1, 64)] = 1
    grad_accum_steps: Annotated[int, Range(1)] = 1
    remat: Literal["none", "norms_and_activations", "everything"] = "norms_and_activations"
    num_epochs: Annotated[int, Range(1)] = 10
    evaluate_every: Annotated[int, Range(1)] = 1
    checkpoint_every_steps: Annotated[int, Range(0)] = 0
    max_to_keep: Annotated[int, Range(1)] = 1
    metric: Literal["mean_average_precision", "accuracy"] = "mean_average_precision"
    average_from: Annotated[int, Range(0)] = 0
    average_to: Annotated[int, Range(0)] = 0
    cumulative: bool = False
    final_params: Literal["last", "best", "average"] = "last"
    skip_nonfinite: Annotated[int, Range(0)] = 0
    parallel: Literal["shard_map", "pmap"] = "shard_map"
    shard_optimizer: bool = False
    profile_steps: Annotated[int, Range(0, 1000)] = 0
    seed: Annotated[int, Range(0)] = 0

    def validate(self) -> None:
        """Raises `InputError` for the first field that cannot be trained with."""
        check_fields(self)
        if not self.workdir:
            raise InputError("workdir is not set; say where the run goes")
        rows, columns = self.model.grid
        for name, limit, what in (
            ("grad_accum_steps", self.batch_size, "batch_size"),
            ("length_buckets", columns, "columns of patches"),
            ("average_to", self.num_epochs, "num_epochs"),
            ("average_from", self.average_to or self.num_epochs, "average_to"),
            ("augment.frequency_mask", self.model.num_mel_bins, "mel bins"),
            ("augment.time_mask", self.model.max_length, "frames"),
            ("augment.roll", self.model.max_length, "frames"),
            ("augment.patchout_frequency", rows - 1, "rows of patches but one"),
            ("augment.patchout_time", columns - 1, "columns of patches but one"),
        ):
            value = attrgetter(name)(self)
            if value > limit:
                raise InputError(f"{name} is {value}; it must be at most {limit}, the {what}")
        if self.final_params == "average" and not self.average_from:
            raise InputError(
                "final_params is 'average' and average_from is 0; set average_from to an epoch"
            )
        if self.length_buckets > 1 and not self.model.mask_padding:
            raise InputError(
                f"length_buckets is {self.length_buckets} and model.mask_padding is False; set "
                f"model.mask_padding=True, or clips would see padding of other lengths"
            )
        if self.shard_optimizer and self.parallel == "pmap":
            raise InputError("shard_optimizer needs parallel to be 'shard_map', which is faster")

    @property
    def runs_all_folds(self) -> bool:
        """Whether the experiment is a run per fold of its data."""
        return getattr(self.data, "fold", 1) == 0

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as nested dicts, for JSON; `data` has its kind, too.

        The names of the model's classes are those of the data, and left out.
        """
        fields = dataclasses.asdict(self)
        fields["model"]["id2label"] = None
        fields["data"] = {"kind": self.data.kind} | fields["data"]
        return fields
