"""Your own recordings, a folder of sound files for each class.

    python train.py --config=configs/folder.py --config.data.dir=SOUNDS --config.workdir=runs/mine

`SOUNDS/dog/*.wav`, `SOUNDS/rain/*.wav`, …: any format, any rate; about a fifth of the files,
chosen by their names, is held out (`data.holdout`). For clips shorter than ten seconds set
`--config.model.max_length` (100 frames a second, a multiple of 16 or so) and
`--config.augment.time_mask` (a tenth of that). With `--config.init_from=CHECKPOINT` training
starts from a published AST (give `--config.optimizer.learning_rate=2e-5` and
`--config.num_epochs=10`); without, from random weights, which takes thousands of clips to get far.
"""

from ast_jax.config import AugmentConfig, DataConfig, OptimizerConfig, TrainConfig
from ast_jax.models.config import ASTConfig


def get_config() -> TrainConfig:
    """A base AST on 10 s clips; mean and std are measured on the training clips."""
    return TrainConfig(
        workdir="runs/folder",
        model=ASTConfig.from_size("base384"),
        data=DataConfig(kind="folder"),
        augment=AugmentConfig(frequency_mask=24, time_mask=96),
        optimizer=OptimizerConfig(learning_rate=1e-4, schedule="cosine", warmup_steps=100),
        batch_size=16,
        num_epochs=30,
    )
