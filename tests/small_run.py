"""A tiny model, the configuration of a run that takes seconds, and its history."""

from pathlib import Path

from ast_jax.config import AugmentConfig, OptimizerConfig, SyntheticData, TrainConfig
from ast_jax.io import read_json
from ast_jax.models.config import ASTConfig

MODEL = ASTConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    frequency_stride=16,
    time_stride=16,
    max_length=64,
    num_mel_bins=32,
)


def small(workdir, **changes):
    """Returns the configuration of a run that takes seconds: three epochs of two batches."""
    config = TrainConfig(
        workdir=str(workdir),
        model=MODEL.replace(),
        data=SyntheticData(train_clips=2, evaluation_clips=1),
        augment=AugmentConfig(frequency_mask=8, time_mask=16),
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=2),
        batch_size=8,
        num_epochs=3,
    )
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def history_of(workdir):
    """Returns the rows of a run's history without their times, which differ between equal runs."""
    rows = read_json(Path(workdir) / "history.json")
    assert all(row.pop("seconds") > 0 for row in rows)
    return rows
