"""A first training run without data: ten synthetic sounds, about two minutes on two cores.

ast-jax train demo
"""

from ast_jax.config import AugmentConfig, OptimizerConfig, SyntheticData, TrainConfig
from ast_jax.models.config import ASTConfig


def get_config() -> TrainConfig:
    """Returns a small AST on 1.25 s clips."""
    return TrainConfig(
        workdir="runs/demo",
        model=ASTConfig(
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=3,
            intermediate_size=384,
            frequency_stride=16,
            time_stride=16,
            max_length=128,
            num_mel_bins=64,
        ),
        data=SyntheticData(train_clips=300, evaluation_clips=20),
        augment=AugmentConfig(frequency_mask=8, time_mask=16),
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=100, b1=0.9),
        batch_size=25,
        num_epochs=8,
    )
