"""Every dataclass that an experiment's configuration is made of.

A file in `configs/` returns a `TrainConfig` from `get_config()`; its fields are changed on the
command line as `--config.optimizer.learning_rate=2e-5`.
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
LOSSES = ("cross_entropy", "binary_cross_entropy")
OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "cosine", "multi_step")
PARALLEL = ("shard_map", "pmap")
METRICS = ("mean_average_precision", "accuracy")
RESULTS = ("last", "best", "average")
BELOW_ONE = 1 - 1e-9


@dataclass
class DataConfig:
    """Which clips to train on.

    Attributes:
        kind: 'prepared' (what `ast-jax prepare` made, read when needed); or into memory:
            'esc50' (the ESC-50 repository's layout), 'folder' (a folder of sound files for each
            class) or 'synthetic' (made on the spot).
        dir: where the recordings are; unused by 'synthetic'.
        name: the prepared set's kind of source, where `dir` holds several.
        digest: of the prepared set's source, if it must be that one and no other.
        train: the prepared set's splits to train on, as 'balanced+unbalanced'; '' for the
            benchmark's own.
        evaluation: the prepared set's split that is held out; '' for the benchmark's own.
        test: the prepared set's split that the run's result is tested on at its end; '' for none.
        fold: the fold of ESC-50 that is held out, 1 to 5; 0 for one run of each.
        holdout: the share of the files that 'folder' holds out, on average.
        train_clips: clips a class that 'synthetic' makes for training.
        evaluation_clips: clips a class that 'synthetic' makes to hold out.
        balanced: draw training clips with replacement, those of rare classes more often.
        workers: processes that make batches; 0 for threads. For prepared sets: what is in
            memory is copied to each.
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


@dataclass
class FrontendConfig:
    """How waveforms become inputs; frames and mel bins are the model's.

    Attributes:
        sampling_rate: in Hz.
        mean: of the training set's log-mels, or None to measure it.
        std: their standard deviation, or None to measure it.
        on_device: compute log-mels on the accelerator, from int16 waveforms, rather than on
            the host with NumPy. From int16 recordings the numbers agree to float32's rounding;
            mixed or resampled waveforms are rounded to 16 bits on the way there.
    """

    sampling_rate: int = 16000
    mean: float | None = None
    std: float | None = None
    on_device: bool = False


@dataclass
class AugmentConfig:
    """Augmentation of training inputs.

    Attributes:
        frequency_mask: widest SpecAugment mask, in mel bins; 0 for none.
        time_mask: widest SpecAugment mask, in frames; 0 for none.
        noise: add noise of a random loudness, as the original does for Speech Commands.
        roll: farthest a clip is shifted around in time, in frames; 0 for none.
        mixup: share of the clips that are mixed with another, 0 to 1.
        patchout_frequency: rows of patches left out of each clip (structured Patchout), which
            trains faster; 0 for none.
        patchout_time: columns of patches left out.
    """

    frequency_mask: int = 0
    time_mask: int = 0
    noise: bool = False
    roll: int = 0
    mixup: float = 0.0
    patchout_frequency: int = 0
    patchout_time: int = 0


@dataclass
class OptimizerConfig:
    """Adam as the original's, or AdamW, and the learning rate's course.

    Attributes:
        kind: 'adam', or 'adamw' whose weight decay bypasses the moments.
        learning_rate: the highest.
        schedule: 'constant', 'cosine' down to zero at the last step, or 'multi_step', which
            multiplies the rate at the ends of epochs.
        decay_start: epochs after which 'multi_step' does so first.
        decay_every: epochs from then to the next time.
        decay: what it multiplies by.
        warmup_steps: steps over which the rate rises linearly from zero.
        warmup_interval: steps from one rise to the next.
        b1: decay of the gradient's mean.
        b2: decay of its square's mean.
        eps: added to the root of the latter.
        weight_decay: for 'adam' L2, added to every gradient; for 'adamw' that of the matrices.
        clip_norm: the longest a gradient of all parameters may be, or is shortened to; 0 for any.
        layer_decay: what the rate is multiplied by from each layer to the one below it.
        ema_decay: of the moving average of the parameters that is evaluated and kept instead of
            them; 0 for none.
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
    clip_norm: float = 0.0
    layer_decay: float = 1.0
    ema_decay: float = 0.0


@dataclass
class TrainConfig:
    """One experiment.

    Attributes:
        workdir: the run's folder, made if it is missing; a run that was cut off goes on there.
        init_from: a checkpoint to start from, or '' for random weights. Its size must be the
            model's; strides, length, mel bins and classes may differ, see `adapt_params`.
        model: the model; its labels come from the data.
        loss: 'cross_entropy' for one class a clip, 'binary_cross_entropy' for any number.
        label_smoothing: the share of a training target that is spread over all classes.
        batch_size: clips a step, over all devices of all processes.
        accumulate: parts that a device takes its slice of a batch in, one after another, for
            want of memory. On a CPU a part of one clip takes the memory of two, and is the fastest.
        remat: compute each layer anew for the backward pass rather than keep what it needs:
            a sixth of the memory a clip for a third more time.
        num_epochs: passes over the training clips.
        evaluate_every: epochs between evaluations and checkpoints.
        save_every: steps between checkpoints beside those; 0 for none.
        keep: how many of the newest checkpoints to keep, beside the best.
        metric: what tells the best epoch, 'mean_average_precision' or 'accuracy'.
        average_from: the first of the epochs whose parameters are averaged; 0 for no average.
        average_to: the last of them; 0 for the run's last.
        cumulative: at each evaluation also score the mean of all evaluations' predictions.
        result: which parameters the run is for: those of the 'last' epoch, of the 'best', or the
            'average'.
        skip_nonfinite: steps with an infinite loss or gradient that may be left out before the
            run stops.
        parallel: how the step is mapped over devices, 'shard_map' or 'pmap'.
        shard_optimizer: split the optimizer's state over the devices (ZeRO-1).
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
    accumulate: int = 1
    remat: bool = False
    num_epochs: int = 10
    evaluate_every: int = 1
    save_every: int = 0
    keep: int = 1
    metric: str = "mean_average_precision"
    average_from: int = 0
    average_to: int = 0
    cumulative: bool = False
    result: str = "last"
    skip_nonfinite: int = 0
    parallel: str = "shard_map"
    shard_optimizer: bool = False
    seed: int = 0

    def validate(self) -> None:
        """Raises `InputError` naming the first field that no run can be made from."""
        self.model.validate()
        if not self.workdir:
            raise InputError("workdir is not set; say where the run goes with --config.workdir")
        for name, choice, allowed in (
            ("data.kind", self.data.kind, DATA_KINDS),
            ("loss", self.loss, LOSSES),
            ("optimizer.kind", self.optimizer.kind, OPTIMIZERS),
            ("optimizer.schedule", self.optimizer.schedule, SCHEDULES),
            ("parallel", self.parallel, PARALLEL),
            ("metric", self.metric, METRICS),
            ("result", self.result, RESULTS),
        ):
            if choice not in allowed:
                raise InputError(f"{name} is {choice!r}; it must be one of {', '.join(allowed)}")
        rows, columns = self.model.grid
        for name, value, low, high in (
            ("batch_size", self.batch_size, 1, math.inf),
            ("num_epochs", self.num_epochs, 1, math.inf),
            ("evaluate_every", self.evaluate_every, 1, math.inf),
            ("label_smoothing", self.label_smoothing, 0, BELOW_ONE),
            ("accumulate", self.accumulate, 1, self.batch_size),
            ("save_every", self.save_every, 0, math.inf),
            ("keep", self.keep, 1, math.inf),
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
            ("optimizer.clip_norm", self.optimizer.clip_norm, 0, math.inf),
            ("optimizer.layer_decay", self.optimizer.layer_decay, 1e-6, 1),
            ("optimizer.ema_decay", self.optimizer.ema_decay, 0, BELOW_ONE),
            ("optimizer.b1", self.optimizer.b1, 0, BELOW_ONE),
            ("optimizer.b2", self.optimizer.b2, 0, BELOW_ONE),
            ("optimizer.eps", self.optimizer.eps, 1e-30, 1),
            ("frontend.std", 1 if self.frontend.std is None else self.frontend.std, 1e-6, 1e6),
            ("frontend.mean", self.frontend.mean or 0, -1e6, 1e6),
            ("data.holdout", self.data.holdout, 1e-6, BELOW_ONE),
            ("seed", self.seed, 0, 2**31 - 1),
            ("augment.frequency_mask", self.augment.frequency_mask, 0, self.model.num_mel_bins),
            ("augment.time_mask", self.augment.time_mask, 0, self.model.max_length),
            ("augment.roll", self.augment.roll, 0, self.model.max_length),
            ("augment.mixup", self.augment.mixup, 0, 1),
            ("augment.patchout_frequency", self.augment.patchout_frequency, 0, rows - 1),
            ("augment.patchout_time", self.augment.patchout_time, 0, columns - 1),
        ):
            if not low <= value <= high:
                limits = f"between {low} and {high}" if high < math.inf else f"{low} or more"
                raise InputError(f"{name} is {value}; it must be {limits}")
        if self.result == "average" and not self.average_from:
            raise InputError(
                "result is 'average' and average_from 0; set --config.average_from to an epoch"
            )
        if self.model.dtype == "int8":
            raise InputError("model.dtype is int8, which cannot be trained in; use bfloat16")
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
        """The fields as nested dicts, for a JSON file."""
        return dataclasses.asdict(self)


def load_config(file: str | Path, changes: Sequence[str] = ()) -> TrainConfig:
    """The configuration that a file's `get_config()` returns, with fields changed.

    Args:
        file: a Python file, such as those in `configs/`; it is run.
        changes: as `optimizer.learning_rate=2e-5`.

    Raises:
        InputError: the file cannot be run, or there is no such field, or it has another type.
    """
    try:
        config = runpy.run_path(str(file))["get_config"]()
    except Exception as error:  # whatever the file raises
        raise InputError(
            f"{file}: cannot be used as a configuration ({type(error).__name__}: {error}); its "
            f"get_config() must return a TrainConfig"
        ) from None
    if not isinstance(config, TrainConfig):
        raise InputError(f"{file}: get_config() returns {config!r}; return a TrainConfig")
    for change in changes:
        path, equals, text = change.partition("=")
        *groups, name = path.split(".")
        place: Any = config
        for group in groups:
            place = getattr(place, group, None)
        types = {f.name: f.type for f in dataclasses.fields(place)} if is_dataclass(place) else {}
        if equals and name and types and name not in types:
            raise InputError(f"'{change}': no field '{name}'; did you mean {nearest(name, types)}?")
        if not equals or name not in types or is_dataclass(types[name]):
            raise InputError(f"'{change}' is no change of a field; write it as FIELD=VALUE")
        none = text == "None" and "None" in str(types[name])
        setattr(place, name, None if none else _parse(text, getattr(place, name), path))
    return config


def _parse(text: str, current: Any, path: str) -> Any:
    """A field's new value, of the current one's type; what is None now becomes a number."""
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
