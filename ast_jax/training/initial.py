"""Makes what training starts from: the feature extractor and the initial parameters."""

import os
from typing import Any

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint
from ast_jax.checkpoint.load import read_checkpoint
from ast_jax.checkpoint.torch_read import NO_EXTRACTOR
from ast_jax.config import TrainConfig
from ast_jax.data.clips import DataSet
from ast_jax.data.statistics import measure
from ast_jax.errors import InputError
from ast_jax.models.ast import init_params
from ast_jax.models.config import GEOMETRY, ASTConfig
from ast_jax.runs.progress import run_console


def make_extractor(config: TrainConfig, data: DataSet) -> ASTFeatureExtractor:
    """Returns the configured frontend; a mean or std of None is that of the training clips.

    `ast-jax stats` measures a prepared set's once; otherwise they are measured here.
    """
    mean, std = config.frontend.mean, config.frontend.std
    if mean is None or std is None:
        bins = config.model.num_mel_bins
        measured = data.statistics.get(bins)
        if measured is None:
            # Sets on disk are too large for one core; those in memory are small.
            on_disk = data.train.samples is not None
            if on_disk:
                run_console().print(
                    "measuring the log-mels of all training clips; `ast-jax stats` does it once"
                )
            measured = measure(
                data.train,
                data.labels,
                config.frontend.sampling_rate,
                bins,
                processes=(os.cpu_count() or 1) if on_disk else 1,
            )[:2]
        mean = measured[0] if mean is None else mean
        std = measured[1] if std is None else std
    return ASTFeatureExtractor(
        sampling_rate=config.frontend.sampling_rate,
        num_mel_bins=config.model.num_mel_bins,
        max_length=config.model.max_length,
        mean=mean,
        std=std,
        return_attention_mask=config.model.mask_padding,
    )


SIZE = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size",
)  # fmt: skip


def initial_checkpoint(
    config: TrainConfig, data: DataSet, extractor: ASTFeatureExtractor
) -> Checkpoint:
    """Returns what training starts from: random weights, or `init_from` with the data's classes.

    Raises:
        InputError: `init_from` cannot be used, or its size is not the model's.
    """
    kind = "single" if config.loss == "cross_entropy" else "multi"
    changes: dict[str, Any] = {
        "id2label": dict(enumerate(data.labels)),
        "num_labels": len(data.labels),
        "problem_type": f"{kind}_label_classification",
        "frame_level": data.train.strong is not None,
    }
    if not config.init_from:
        model = config.model.replace(**changes)
        return Checkpoint(model, extractor, init_params(model, config.seed))
    for name in (*GEOMETRY, "dtype", "mask_padding"):
        changes[name] = getattr(config.model, name)
    guesses: list[str] = []
    source = read_checkpoint(config.init_from, changes, head_seed=config.seed, guesses=guesses)
    console = run_console()
    for guess in guesses:
        if not guess.startswith(NO_EXTRACTOR):  # the run has a feature extractor of its own
            console.print(f"note: {config.init_from}: {guess}")
    found = {name: getattr(source.config, name) for name in SIZE}
    found = {name: value for name, value in found.items() if value != getattr(config.model, name)}
    # The defaults are base384's: another value was set on purpose. The columns of strong labels are
    # those of the configuration's patch size.
    if any(
        getattr(config.model, name) != getattr(ASTConfig, name)
        or (name == "patch_size" and data.train.strong is not None)
        for name in found
    ):
        raise InputError(
            f"{config.init_from}: has "
            + " and ".join(
                f"{name} {value} where the configuration has {getattr(config.model, name)}"
                for name, value in found.items()
            )
            + "; set "
            + " ".join(f"model.{name}={value}" for name, value in found.items())
        )
    if found:
        size = ", ".join(f"{name} {value}" for name, value in found.items())
        console.print(f"note: {config.init_from}: the model has its size, {size}")
    return source._replace(feature_extractor=extractor)
