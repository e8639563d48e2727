"""The original's Adam in optax, AdamW beside it, and learning rates."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from ast_jax.config import OptimizerConfig
from ast_jax.sharding import AXIS


def make_schedule(config: OptimizerConfig, num_steps: int, epoch_steps: int) -> optax.Schedule:
    """The learning rate by step (the first is 0), for a run of `num_steps`."""
    if config.schedule == "multi_step":
        return multi_step(config, epoch_steps)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(
            config.learning_rate, max(1, num_steps - config.warmup_steps)
        )
    else:
        after = optax.constant_schedule(config.learning_rate)

    def schedule(step: jax.Array) -> jax.Array:
        rate = after(jnp.maximum(step - config.warmup_steps, 0))
        if not config.warmup_steps:
            return rate
        risen = _last_rise(config, step)
        return jnp.where(
            step < config.warmup_steps, config.learning_rate * risen / config.warmup_steps, rate
        )

    return schedule


def multi_step(config: OptimizerConfig, epoch_steps: int) -> optax.Schedule:
    """The original's rate (src/traintest.py, PyTorch's MultiStepLR), exactly.

    After `decay_start` epochs, and every `decay_every` from then on, the rate is multiplied by
    `decay`. A warm-up *sets* the rate, every `warmup_interval` steps: as long as it lasts, what
    was multiplied before is forgotten.
    """

    def decays(step: jax.Array) -> jax.Array:
        """How often the rate has been multiplied before step `step`."""
        return jnp.maximum(0, 1 + (step // epoch_steps - config.decay_start) // config.decay_every)

    def schedule(step: jax.Array) -> jax.Array:
        if not config.warmup_steps:
            return config.learning_rate * config.decay ** decays(step)
        set_at = _last_rise(config, step)
        rate = config.learning_rate * set_at / config.warmup_steps
        return rate * config.decay ** (decays(step) - decays(set_at))

    return schedule


def _last_rise(config: OptimizerConfig, step: jax.Array) -> jax.Array:
    """The step, `step` or before, at which the warm-up last raised the rate."""
    interval = config.warmup_interval
    return jnp.minimum(step, config.warmup_steps) // interval * interval


def make_optimizer(config: OptimizerConfig, devices: int = 1) -> optax.GradientTransformation:
    """What makes gradients an update of rate one, to be subtracted.

    'adam' is PyTorch's `Adam(weight_decay=…)`: L2 joins the gradient *before* the moments. The
    original's settings (src/traintest.py) are betas (.95, .999), weight decay 5e-7 on every
    parameter, no clipping. 'adamw' takes the decay past the moments, and lets it decay neither
    biases, norms, tokens nor positions.

    Args:
        config: its settings.
        devices: over how many the moments are split, see `split_over_devices`.
    """
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    if config.kind == "adam":
        moments = optax.chain(optax.add_decayed_weights(config.weight_decay), adam)
    else:
        decay = optax.add_decayed_weights(config.weight_decay, mask=_is_kernel)
        moments = optax.chain(adam, decay)
    if devices > 1:
        moments = split_over_devices(moments, devices)
    parts = [moments]
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.layer_decay != 1:
        parts.append(scale_by_depth(config.layer_decay))
    return optax.chain(*parts)


def _is_kernel(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def scale_by_depth(decay: float) -> optax.GradientTransformation:
    """Smaller updates for lower layers: layer-wise learning rate decay (ELECTRA, BEiT).

    The head's are whole; those of the encoder's layer l of L are multiplied by decay^(L - l),
    counted from 0, and those of the embeddings by decay^(L + 1).
    """

    def scale(updates: Any, params: Any = None) -> Any:
        layers = updates["ast"]["encoder"]["layers"]
        depth = jax.tree.leaves(layers)[0].shape[0]
        by_layer = decay ** jnp.arange(depth, 0, -1, dtype=jnp.float32)

        def scaled_layers(array: jax.Array) -> jax.Array:
            return array * by_layer.reshape(-1, *[1] * (array.ndim - 1))

        embeddings = jax.tree.map(lambda x: x * decay ** (depth + 1), updates["ast"]["embeddings"])
        encoder = {"layers": jax.tree.map(scaled_layers, layers)}
        return updates | {"ast": updates["ast"] | {"embeddings": embeddings, "encoder": encoder}}

    return optax.stateless(scale)


def split_over_devices(
    inner: optax.GradientTransformation, devices: int
) -> optax.GradientTransformation:
    """The same with its state split over the devices, each updating its part (ZeRO-1).

    What `inner` does must be a function of each number by itself, as Adam is: results are the
    same but for rounding. `update` runs under the axis 'data' and takes a device's part of the
    state, laid out by `state_specs`; `init` makes the whole state.
    """

    def part(array: jax.Array) -> jax.Array:
        axis = _split_axis(array.shape, devices)
        if axis is None:
            return array
        size = array.shape[axis] // devices
        return jax.lax.dynamic_slice_in_dim(array, jax.lax.axis_index(AXIS) * size, size, axis)

    def whole(array: jax.Array, like: jax.Array) -> jax.Array:
        axis = _split_axis(like.shape, devices)
        return array if axis is None else jax.lax.all_gather(array, AXIS, axis=axis, tiled=True)

    def update(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
        parts, state = inner.update(
            jax.tree.map(part, gradients), state, jax.tree.map(part, params)
        )
        return jax.tree.map(whole, parts, gradients), state

    return optax.GradientTransformation(inner.init, update)


def state_specs(opt_state: Any, devices: int) -> Any:
    """How the whole state of `split_over_devices` lies on the devices, a `PartitionSpec` each."""

    def spec(array: jax.Array) -> P:
        axis = _split_axis(array.shape, devices)
        return P() if axis is None else P(*[None] * axis, AXIS)

    return jax.tree.map(spec, opt_state)


def _split_axis(shape: tuple[int, ...], devices: int) -> int | None:
    """The longest axis that splits evenly, if any does."""
    even = [axis for axis, size in enumerate(shape) if size and size % devices == 0]
    return max(even, key=lambda axis: shape[axis], default=None)
