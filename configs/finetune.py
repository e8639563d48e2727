r"""Your own recordings, from a published AST; docs/finetuning.md is the guide.

    hf download MIT/ast-finetuned-audioset-10-10-0.4593 \
        --local-dir checkpoints/ast-finetuned-audioset-10-10-0.4593
    ast-jax train finetune --data.dir SOUNDS \
        --workdir runs/mine

`SOUNDS/dog/*.wav`, `SOUNDS/rain/*.wav`, …, as in configs/folder.py; or a prepared set, with
`--data.kind prepared`. For clips shorter than 10 s set `--model.max-length` (100
frames per second) and `--augment.time-mask` (a tenth of that).

Options that help some data sets and are off by default:
- `--optimizer.layer-decay 0.75` keeps the lower layers near the published weights. Use it
  with a learning rate of 1e-4: at 2e-5 the lowest layers hardly change.
- `--label-smoothing 0.1` for noisy labels. Mixup already softens half of the targets.
- `--data.balanced` for rare classes.
- `--loss binary_cross_entropy` for several classes per clip.

Tested with small models only, not at full size.
"""

from pathlib import Path

from ast_jax.config import OptimizerConfig, TrainConfig
from ast_jax.config_files import load_config


def get_config() -> TrainConfig:
    """Returns base384, 10 epochs at a low learning rate, of which the best is kept."""
    config = load_config(Path(__file__).with_name("folder.py"))
    config.workdir = "runs/finetune"
    config.init_from = "checkpoints/ast-finetuned-audioset-10-10-0.4593"
    config.augment.mixup = 0.5
    config.optimizer = OptimizerConfig(
        kind="adamw",
        learning_rate=2e-5,
        schedule="cosine",
        warmup_steps=100,
        b1=0.9,
        weight_decay=0.01,
        grad_clip_norm=1.0,
    )
    config.num_epochs = 10
    config.final_params = "best"
    return config
