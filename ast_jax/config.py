"""The dataclasses that make up an experiment's configuration.

A file in `configs/` returns a `TrainConfig` from `get_config()`. The command line changes its
fields: `--config.optimizer.learning_rate=2e-5`.
"""

import ast
import dataclasses
import math
import runpy
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from ast_jax.errors import InputError, nearest
from ast_jax.models.config import ASTConfig

DATA_KINDS = ("synthetic", "esc50", "folder", "prepared")
OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "cosine", "multi_step")
PARALLEL = ("shard_map", "pmap")
METRICS = ("mean_average_precision", "accuracy")
FINAL_PARAMS = ("last", "best", "average")
BELOW_ONE = 1 - 1e-9

# Fields that had other names in runs and configuration files of earlier versions.
RENAMED = {
    "accumulate": "grad_accum_steps",
    "keep": "max_to_keep",
    "save_every": "checkpoint_every_steps",
    "result": "final_params",
    "clip_norm": "grad_clip_norm",
}


@dataclass(slots=True)  # a misspelled field raises
class DataConfig:
    """The clips to train and evaluate on.

    Attributes:
        kind: 'prepared' reads what `ast-jax prepare` wrote, clip by clip. The others are held in
            memory: 'esc50' (the ESC-50 repository's layout), 'folder' (one folder of sound
            files per class), 'synthetic' (generated).
        dir: folder of the recordings, or its URL, which is downloaded; unused by 'synthetic'.
        name: source of the prepared set, where `dir` holds several sets.
        digest: digest that the prepared set's source must have; '' accepts any.
        train: splits of the prepared set to train on, such as 'balanced+unbalanced'; '' for the
            benchmark's own.
        evaluation: split of the prepared set to evaluate on; '' for the benchmark's own.
        test: split of the prepared set on which the final parameters are tested; '' for none.
        fold: ESC-50 fold to hold out, 1 to 5; 0 trains once per fold.
        holdout: average share of the files that 'folder' holds out.
        train_clips: training clips per class of 'synthetic'.
        evaluation_clips: held-out clips per class of 'synthetic'.
        balanced: sample training clips with replacement, clips of rare classes more often.
        workers: processes that make batches; 0 uses threads. Use them with prepared sets: data
            in memory is copied to each worker.
    """

    kind: str = "folder"
    dir: str = ""
    name: str = ""
    digest: str = ""
    train: str = ""
    evaluation: str = ""
    test: str = ""
    fold: int = 1
    holdout: float = 0.2
    train_clips: int = 100
    evaluation_clips: int = 20
    balanced: bool = False
    workers: int = 0


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

    sampling_rate: int = 16000
    mean: float | None = None
    std: float | None = None
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

    frequency_mask: int = 0
    time_mask: int = 0
    noise: bool = False
    roll: int = 0
    mixup: float = 0.0
    patchout_frequency: int = 0
    patchout_time: int = 0


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

    kind: str = "adam"
    learning_rate: float = 1e-4
    schedule: str = "constant"
    decay_start: int = 1
    decay_every: int = 1
    decay: float = 0.5
    warmup_steps: int = 0
    warmup_interval: int = 1
    b1: float = 0.95
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 5e-7
    grad_clip_norm: float = 0.0
    layer_decay: float = 1.0
    ema_decay: float = 0.0


@dataclass(slots=True)  # a misspelled field raises
class TrainConfig:
    """One experiment.

    Attributes:
        workdir: folder of the run, created if missing; an interrupted run resumes there. A URL,
            gs://… or s3://…, is uploaded during the run.
        init_from: checkpoint to start from, or its URL; '' for random weights. Its size must equal
            the model's; strides, length, mel bins and classes may differ, see `adapt_params`.
        model: the model; the data sets its labels.
        loss: 'cross_entropy' (one class per clip) or 'binary_cross_entropy' (any number).
        label_smoothing: share of a training target that is spread over all classes.
        batch_size: clips per step, over all devices of all processes.
        grad_accum_steps: microbatches that each device splits its share of a batch into.
        remat: what the backward pass recomputes: 'none', 'norms_and_activations' (LayerNorm and
            GELU: a quarter of the memory), or 'everything' (each layer keeps its input alone: a
            sixth of the default's memory for up to a third more time).
        num_epochs: passes over the training clips.
        evaluate_every: epochs between evaluations, each with a checkpoint.
        checkpoint_every_steps: steps between additional checkpoints; 0 for none.
        max_to_keep: newest checkpoints to keep, beside the best.
        metric: metric of the best epoch, 'mean_average_precision' or 'accuracy'.
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
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    batch_size: int = 32
    grad_accum_steps: int = 1
    remat: str = "norms_and_activations"
    num_epochs: int = 10
    evaluate_every: int = 1
    checkpoint_every_steps: int = 0
    max_to_keep: int = 1
    metric: str = "mean_average_precision"
    average_from: int = 0
    average_to: int = 0
    cumulative: bool = False
    final_params: str = "last"
    skip_nonfinite: int = 0
    parallel: str = "shard_map"
    shard_optimizer: bool = False
    profile_steps: int = 0
    seed: int = 0

    def validate(self) -> None:
        """Raises `InputError` for the first field that cannot be trained with."""
        # These import JAX, which reading and changing a configuration does not need.
        from ast_jax.losses import LOSSES
        from ast_jax.models.remat import REMAT

        self.model.validate()
        if not self.workdir:
            raise InputError("workdir is not set; say where the run goes with --config.workdir")
        for name, choice, allowed in (
            ("data.kind", self.data.kind, DATA_KINDS),
            ("loss", self.loss, tuple(LOSSES)),
            ("optimizer.kind", self.optimizer.kind, OPTIMIZERS),
            ("optimizer.schedule", self.optimizer.schedule, SCHEDULES),
            ("parallel", self.parallel, PARALLEL),
            ("metric", self.metric, METRICS),
            ("final_params", self.final_params, FINAL_PARAMS),
            ("remat", self.remat, REMAT),
        ):
            if choice not in allowed:
                raise InputError(f"{name} is {choice!r}; it must be one of {', '.join(allowed)}")
        rows, columns = self.model.grid
        for name, value, low, high in (
            ("batch_size", self.batch_size, 1, math.inf),
            ("num_epochs", self.num_epochs, 1, math.inf),
            ("evaluate_every", self.evaluate_every, 1, math.inf),
            ("label_smoothing", self.label_smoothing, 0, BELOW_ONE),
            ("grad_accum_steps", self.grad_accum_steps, 1, self.batch_size),
            ("checkpoint_every_steps", self.checkpoint_every_steps, 0, math.inf),
            ("max_to_keep", self.max_to_keep, 1, math.inf),
            ("average_to", self.average_to, 0, self.num_epochs),
            ("average_from", self.average_from, 0, self.average_to or self.num_epochs),
            ("skip_nonfinite", self.skip_nonfinite, 0, math.inf),
            ("frontend.sampling_rate", self.frontend.sampling_rate, 1000, math.inf),
            ("data.workers", self.data.workers, 0, 1024),
            ("data.fold", self.data.fold, 0, 5),
            ("data.train_clips", self.data.train_clips, 1, math.inf),
            ("data.evaluation_clips", self.data.evaluation_clips, 1, math.inf),
            ("optimizer.learning_rate", self.optimizer.learning_rate, 0, math.inf),
            ("optimizer.decay_start", self.optimizer.decay_start, 1, math.inf),
            ("optimizer.decay_every", self.optimizer.decay_every, 1, math.inf),
            ("optimizer.decay", self.optimizer.decay, 0, 1),
            ("optimizer.warmup_steps", self.optimizer.warmup_steps, 0, math.inf),
            ("optimizer.warmup_interval", self.optimizer.warmup_interval, 1, math.inf),
            ("optimizer.weight_decay", self.optimizer.weight_decay, 0, math.inf),
            ("optimizer.grad_clip_norm", self.optimizer.grad_clip_norm, 0, math.inf),
            ("optimizer.layer_decay", self.optimizer.layer_decay, 1e-6, 1),
            ("optimizer.ema_decay", self.optimizer.ema_decay, 0, BELOW_ONE),
            ("optimizer.b1", self.optimizer.b1, 0, BELOW_ONE),
            ("optimizer.b2", self.optimizer.b2, 0, BELOW_ONE),
            ("optimizer.eps", self.optimizer.eps, 1e-30, 1),
            ("frontend.std", 1 if self.frontend.std is None else self.frontend.std, 1e-6, 1e6),
            ("frontend.mean", self.frontend.mean or 0, -1e6, 1e6),
            ("data.holdout", self.data.holdout, 1e-6, BELOW_ONE),
            ("profile_steps", self.profile_steps, 0, 1000),
            ("seed", self.seed, 0, 2**31 - 1),
            ("augment.frequency_mask", self.augment.frequency_mask, 0, self.model.num_mel_bins),
            ("augment.time_mask", self.augment.time_mask, 0, self.model.max_length),
            ("augment.roll", self.augment.roll, 0, self.model.max_length),
            ("augment.mixup", self.augment.mixup, 0, 1),
            ("augment.patchout_frequency", self.augment.patchout_frequency, 0, rows - 1),
            ("augment.patchout_time", self.augment.patchout_time, 0, columns - 1),
        ):
            if not low <= value <= high or value == math.inf:
                limits = (
                    f"between {low} and {high}" if high < math.inf else f"{low} or more, and finite"
                )
                raise InputError(f"{name} is {value}; it must be {limits}")
        if self.final_params == "average" and not self.average_from:
            raise InputError(
                "final_params is 'average' and average_from is 0; set --config.average_from to an "
                "epoch"
            )
        if self.shard_optimizer and self.parallel == "pmap":
            raise InputError("shard_optimizer needs parallel to be 'shard_map', which is faster")
        for name in ("name", "digest", "train", "evaluation", "test"):
            if self.data.kind != "prepared" and getattr(self.data, name):
                raise InputError(
                    f"data.{name} is of prepared sets and data.kind is '{self.data.kind}'; leave "
                    f"--config.data.{name} out, or prepare the set"
                )
        if self.data.kind != "synthetic" and not self.data.dir:
            raise InputError("data.dir is not set; say where the recordings are, --config.data.dir")

    def to_dict(self) -> dict:
        """Returns the fields as nested dicts, for JSON."""
        return dataclasses.asdict(self)


def load_config(file: str | Path, changes: Sequence[str] = ()) -> TrainConfig:
    """Loads the configuration that a file's `get_config()` returns, with fields changed.

    Args:
        file: a Python file such as those in `configs/`; it is executed.
        changes: such as `optimizer.learning_rate=2e-5`.

    Raises:
        InputError: the file cannot be executed, or a field does not exist or has another type.
    """
    try:
        config = runpy.run_path(str(file))["get_config"]()
    except (Exception, SystemExit) as error:  # the file is anyone's code
        raise InputError(
            f"{file}: cannot be used as a configuration ({type(error).__name__}: {error}"
            f"{renamed_hint(str(error))}); its get_config() must return a TrainConfig"
        ) from None
    if not isinstance(config, TrainConfig):
        raise InputError(f"{file}: get_config() returns {config!r}; return a TrainConfig")
    for change in changes:
        path, equals, text = change.partition("=")
        *parents, name = path.split(".")
        group: Any = config
        for parent in parents:
            group = getattr(group, parent, None)
        types = {f.name: f.type for f in dataclasses.fields(group)} if is_dataclass(group) else {}
        if equals and name and types and name not in types:
            close = RENAMED.get(name) or nearest(name, types)
            raise InputError(f"'{change}': no field '{name}'; did you mean {close}?")
        if not equals or name not in types or is_dataclass(types[name]):
            raise InputError(f"'{change}' is no change of a field; write it as FIELD=VALUE")
        none = text == "None" and "None" in str(types[name])
        setattr(group, name, None if none else _parse(text, getattr(group, name), path))
    return config


def _parse(text: str, current: Any, path: str) -> Any:
    """Parses a field's new value, of the type of the current one; None becomes a number."""
    if isinstance(current, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    wanted: Any = (int, float, NoneType) if current is None else type(current)
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(current, bool):
        raise InputError(f"{path} is '{text}'; give a value like {current!r}")
    return value


def renamed_hint(message: str) -> str:
    """Returns ", renamed to NEW" if an error's message quotes the former name of a field."""
    found = [new for old, new in RENAMED.items() if f"'{old}'" in message]
    return f", renamed to '{found[0]}'" if found else ""
