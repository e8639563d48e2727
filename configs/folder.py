"""Your own recordings, in a folder of sound files per class.

    ast-jax train folder --data.dir SOUNDS --workdir runs/mine

`SOUNDS/dog/*.wav`, `SOUNDS/rain/*.wav`, …, in any format and rate. About a fifth of the files is
held out, by file name (`data.holdout`). For clips shorter than 10 s set `--model.max-length`
(100 frames per second, about a multiple of 16) and `--augment.time-mask` (a tenth of that).

Training starts from random weights, which needs thousands of clips. From a published AST
(`--init-from CHECKPOINT`) set `--optimizer.learning-rate 2e-5` and
`--num-epochs 10`, or use configs/finetune.py.
"""

from ast_jax.config import AugmentConfig, FolderData, OptimizerConfig, TrainConfig
from ast_jax.models.config import ASTConfig


def get_config() -> TrainConfig:
    """Returns base384 on 10 s clips; mean and std are measured on the training clips."""
    return TrainConfig(
        workdir="runs/folder",
        model=ASTConfig.from_size("base384"),
        data=FolderData(),
        augment=AugmentConfig(frequency_mask=24, time_mask=96),
        optimizer=OptimizerConfig(learning_rate=1e-4, schedule="cosine", warmup_steps=100),
        batch_size=16,
        num_epochs=30,
    )
