r"""Sound event detection on your own recordings: which sounds, and from when to when.

    ast-jax train sound_events --data.train events.csv --workdir runs/events

`events.csv` (or `.tsv`) has a row per event: `filename,start,end,label`, times in seconds; the
recordings are beside it, or in `data.dir`. DESED's and AudioSet's names of columns are read, too. A
fifth of the recordings is held out, or those of `data.evaluation`. Longer recordings than 10.24 s
are cut into inputs of that length.

Training starts from random weights, which needs thousands of recordings. From a published AST
(`--init-from CHECKPOINT`), whose encoder is kept, set `--optimizer.learning-rate 2e-5` and
`--num-epochs 10`. docs/sound_event_detection.md has the whole way.
"""

from ast_jax.config import AugmentConfig, OptimizerConfig, StrongData, TrainConfig
from ast_jax.models.config import ASTConfig


def get_config() -> TrainConfig:
    """Returns base384 with a decision every 100 ms; mean and std are measured on the recordings."""
    return TrainConfig(
        workdir="runs/sound_events",
        model=ASTConfig.from_size("base384"),
        data=StrongData(),
        loss="binary_cross_entropy",
        augment=AugmentConfig(frequency_mask=24),
        optimizer=OptimizerConfig(learning_rate=1e-4, schedule="cosine", warmup_steps=100),
        batch_size=16,
        num_epochs=30,
        final_params="best",
    )
