r"""AudioSet's balanced list, 22,160 clips: the original's recipe (egs/audioset/run.sh, balanced).

    curl -L --create-dirs -o checkpoints/deit_base_distilled_patch16_384-d0272ac0.pth \
        https://dl.fbaipublicfiles.com/deit/deit_base_distilled_patch16_384-d0272ac0.pth
    ast-jax prepare audioset --source AUDIOSET --output prepared
    ast-jax train audioset_balanced --data.dir prepared \
        --workdir runs/audioset_balanced

`AUDIOSET` is described in configs/audioset_full.py; the lists `balanced_train_segments.csv` and
`eval_segments.csv` are enough.

Published: mAP .347 for the mean of the weights of epochs 6 to 25 (.350 for the released
checkpoint). Not run here at full size.

Differences from the original (docs/recipes.md has those of all recipes):
- The labels are the official list's; the original used enhanced labels (PSLA). To use those,
  prepare their manifests with `ast-jax prepare json` and set `--data.name json`,
  `--data.train` and `--data.evaluation`.
- The encoder computes in float32 (or `--model.dtype bfloat16`), not under fp16 autocast.
- The last, incomplete batch of an epoch is dropped.
"""

from pathlib import Path

from ast_jax.config import PreparedData, TrainConfig
from ast_jax.config_files import load_config


def get_config() -> TrainConfig:
    """Returns audioset_full with larger learning rate, more epochs and each clip once per epoch."""
    config = load_config(Path(__file__).with_name("audioset_full.py"))
    config.workdir = "runs/audioset_balanced"
    config.data = PreparedData(dir="prepared", name="audioset", train="balanced", evaluation="eval")
    config.optimizer.learning_rate = 5e-5
    config.optimizer.decay_start = 10
    config.optimizer.decay_every = 5
    config.num_epochs = 25
    config.average_from, config.average_to = 6, 25
    return config
