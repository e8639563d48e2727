"""The original's Adam in optax, and learning rates."""

import optax

from ast_jax.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """The learning rate by step, for a run of `num_steps`."""
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(
            config.learning_rate, max(1, num_steps - config.warmup_steps)
        )
    else:
        after = optax.constant_schedule(config.learning_rate)
    if not config.warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """PyTorch's `Adam(weight_decay=…)`: L2 joins the gradient *before* the moments.

    The original's settings (traintest.py): betas (.95, .999), weight decay 5e-7 on every
    parameter, no clipping. This is not AdamW, whose decay bypasses the moments.
    """
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.scale_by_learning_rate(make_schedule(config, num_steps)),
    )
