r"""AudioSet, all 2 million clips: the original's recipe (egs/audioset/run.sh, set=full).

    curl -L --create-dirs -o checkpoints/deit_base_distilled_patch16_384-d0272ac0.pth \
        https://dl.fbaipublicfiles.com/deit/deit_base_distilled_patch16_384-d0272ac0.pth
    ast-jax prepare audioset --source AUDIOSET --output prepared
    ast-jax train audioset_full --data.dir prepared \
        --workdir runs/audioset

`AUDIOSET` holds Google's three lists and, in any folders within, the clips that you have. The
initial weights are a distilled DeiT's; reading the `.pth` needs PyTorch (`'.[convert]'`).

Published: mAP .459 for the mean of the five epochs' weights, .448 for the last epoch alone. Not
run here at full size: an epoch is 172,000 steps of 12 clips. For the other strides of the
original's ensemble set `--model.frequency-stride 12 --model.time-stride 12`.

Differences from the original (docs/recipes.md has those of all recipes):
- The encoder computes in float32 (or `--model.dtype bfloat16`), not under fp16 autocast.
- The last, incomplete batch of an epoch is dropped.
- Sampling weights are computed from the clips that you have, with the official lists' labels.
"""

from ast_jax.config import (
    AugmentConfig,
    FrontendConfig,
    OptimizerConfig,
    PreparedData,
    TrainConfig,
)
from ast_jax.models.config import ASTConfig


def get_config() -> TrainConfig:
    """Returns base384 from ImageNet; the optimizer's defaults are the original's."""
    return TrainConfig(
        workdir="runs/audioset_full",
        init_from="checkpoints/deit_base_distilled_patch16_384-d0272ac0.pth",
        model=ASTConfig.from_size("base384", max_length=1024, num_mel_bins=128),
        frontend=FrontendConfig(mean=-4.2677393, std=4.5689974),
        data=PreparedData(
            dir="prepared",
            name="audioset",
            train="balanced+unbalanced",
            evaluation="eval",
            balanced=True,
        ),
        augment=AugmentConfig(frequency_mask=48, time_mask=192, mixup=0.5),
        optimizer=OptimizerConfig(
            learning_rate=1e-5,
            schedule="multi_step",
            decay_start=2,
            decay_every=1,
            decay=0.5,
            warmup_steps=1000,
            warmup_interval=50,
        ),
        loss="binary_cross_entropy",
        batch_size=12,
        num_epochs=5,
        checkpoint_every_steps=5000,
        metric="mean_average_precision",
        average_from=1,
        average_to=5,
        cumulative=True,
        final_params="average",
    )
