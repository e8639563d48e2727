r"""Your own recordings, from a published AST: what to try first; docs/finetuning.md has the rest.

    hf download MIT/ast-finetuned-audioset-10-10-0.4593 \
        --local-dir checkpoints/ast-finetuned-audioset-10-10-0.4593
    python train.py --config=configs/finetune.py --config.data.dir=SOUNDS \
        --config.workdir=runs/mine

`SOUNDS/dog/*.wav`, `SOUNDS/rain/*.wav`, …, as in configs/folder.py; or a prepared set, with
`--config.data.kind=prepared`. For clips shorter than ten seconds set `--config.model.max_length`
(100 frames a second) and `--config.augment.time_mask` (a tenth of that).

Options that help some sets and are off here:
- `--config.optimizer.layer_decay=0.75` keeps the lower layers near the published weights. It goes
  with a higher rate (1e-4): at 2e-5 the lowest layers would hardly move.
- `--config.label_smoothing=0.1` where labels are noisy. Mixup softens half of the targets already.
- `--config.data.balanced=True` where some classes are rare.
- `--config.loss=binary_cross_entropy` where a clip may have several classes.

What accuracy to expect depends on the sounds. Tried here on small models only, not at full size.
"""

from pathlib import Path

from ast_jax.config import OptimizerConfig, TrainConfig, load_config


def get_config() -> TrainConfig:
    """The best of ten gentle epochs; mean and std are measured on the training clips."""
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
