"""Optimizers (the original's Adam, AdamW), ZeRO-1 sharding, and learning rate schedules."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from ast_jax.config import OptimizerConfig
from ast_jax.sharding import AXIS


def make_schedule(config: OptimizerConfig, num_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Returns the learning rate by step, from 0, for a run of `num_steps`."""
    if config.schedule == "multi_step":
        return multi_step(config, steps_per_epoch)
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
        updated_at = _last_warmup_update(config, step)
        return jnp.where(
            step < config.warmup_steps,
            config.learning_rate * updated_at / config.warmup_steps,
            rate,
        )

    return schedule


def multi_step(config: OptimizerConfig, steps_per_epoch: int) -> optax.Schedule:
    """Returns the original's schedule (src/traintest.py, PyTorch's MultiStepLR), exactly.

    After `decay_start` epochs, and every `decay_every` epochs from then on, the rate is multiplied
    by `decay`. The warm-up *sets* the rate every `warmup_interval` steps, which undoes decays from
    before.
    """

    def decays(step: jax.Array) -> jax.Array:
        """Returns the number of decays before step `step`."""
        return jnp.maximum(
            0, 1 + (step // steps_per_epoch - config.decay_start) // config.decay_every
        )

    def schedule(step: jax.Array) -> jax.Array:
        if not config.warmup_steps:
            return config.learning_rate * config.decay ** decays(step)
        set_at = _last_warmup_update(config, step)
        rate = config.learning_rate * set_at / config.warmup_steps
        return rate * config.decay ** (decays(step) - decays(set_at))

    return schedule


def _last_warmup_update(config: OptimizerConfig, step: jax.Array) -> jax.Array:
    """Returns the last step up to `step` at which the warm-up set the rate."""
    interval = config.warmup_interval
    return jnp.minimum(step, config.warmup_steps) // interval * interval


def make_optimizer(config: OptimizerConfig, devices: int = 1) -> optax.GradientTransformation:
    """Returns the optimizer chain without the learning rate: gradients → updates to subtract.

    `update` takes the parameters as well.

    'adam' is PyTorch's `Adam(weight_decay=…)`: L2 is added to the gradient *before* the moments.
    The original's settings (src/traintest.py) are betas (.95, .999), weight decay 5e-7 on every
    parameter, no clipping. 'adamw' decouples the weight decay, and applies it to matrices only:
    not to biases, norms, tokens and positions.

    Args:
        config: the settings.
        devices: number of devices to shard the moments over, see `shard_over_devices`.
    """
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    if config.kind == "adam":
        moments = optax.chain(optax.add_decayed_weights(config.weight_decay), adam)
    else:
        decay = optax.add_decayed_weights(config.weight_decay, mask=_is_kernel)
        moments = optax.chain(adam, decay)
    if devices > 1:
        moments = shard_over_devices(moments, devices)
    parts = [moments]
    if config.grad_clip_norm:
        parts.insert(0, clip_by_global_norm(config.grad_clip_norm))
    if config.layer_decay != 1:
        parts.append(scale_by_depth(config.layer_decay))
    return optax.chain(*parts)


def _is_kernel(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def scale_by_depth(decay: float) -> optax.GradientTransformation:
    """Returns layer-wise learning rate decay (ELECTRA, BEiT).

    Multiplies the updates of encoder layer l of L, counted from 0, by decay^(L - l), those of the
    embeddings by decay^(L + 1), and those of the head by 1.
    """

    def scale(updates: Any, params: Any = None) -> Any:
        layers = updates["ast"]["encoder"]["layers"]
        depth = jax.tree.leaves(layers)[0].shape[0]
        factors = decay ** jnp.arange(depth, 0, -1, dtype=jnp.float32)

        def scaled_layers(array: jax.Array) -> jax.Array:
            return array * factors.reshape(-1, *[1] * (array.ndim - 1))

        embeddings = jax.tree.map(lambda x: x * decay ** (depth + 1), updates["ast"]["embeddings"])
        encoder = {"layers": jax.tree.map(scaled_layers, layers)}
        return updates | {"ast": updates["ast"] | {"embeddings": embeddings, "encoder": encoder}}

    return optax.stateless(scale)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Returns optax's `clip_by_global_norm`, for gradients that may be shards as well."""

    def clip(gradients: Any, params: Any) -> Any:
        norm = global_norm(gradients, params)
        return jax.tree.map(lambda g: jnp.where(norm < max_norm, g, g / norm * max_norm), gradients)

    return optax.stateless(clip)


def global_norm(gradients: Any, params: Any) -> jax.Array:
    """Returns the norm of all gradients; those smaller than their parameter are a device's shards.

    Shards are summed over the axis 'data', so that all devices return the same.
    """
    pairs = list(zip(jax.tree.leaves(gradients), jax.tree.leaves(params), strict=True))
    squared = optax.tree.norm([g for g, p in pairs if g.shape == p.shape], squared=True)
    shards = [g for g, p in pairs if g.shape != p.shape]
    if shards:
        squared += jax.lax.psum(optax.tree.norm(shards, squared=True), AXIS)
    return jnp.sqrt(squared)


def shard_over_devices(
    inner: optax.GradientTransformation, devices: int
) -> optax.GradientTransformation:
    """Returns `inner` with its state sharded over the devices (ZeRO-1).

    Each device updates its shard, and the updates are gathered. `inner` must be elementwise, as
    Adam is; results are then the same up to rounding. `update` runs under the axis 'data' and
    takes a device's shard of the gradients and the state, as specified by `state_specs`, and whole
    parameters; `init` makes the whole state.
    """

    def shard(array: jax.Array) -> jax.Array:
        axis = shard_axis(array.shape, devices)
        if axis is None:
            return array
        size = array.shape[axis] // devices
        return jax.lax.dynamic_slice_in_dim(array, jax.lax.axis_index(AXIS) * size, size, axis)

    def gather(array: jax.Array, like: jax.Array) -> jax.Array:
        axis = shard_axis(like.shape, devices)
        return array if axis is None else jax.lax.all_gather(array, AXIS, axis=axis, tiled=True)

    def update(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
        shards, state = inner.update(gradients, state, jax.tree.map(shard, params))
        return jax.tree.map(gather, shards, params), state

    return optax.GradientTransformation(inner.init, update)


def state_specs(opt_state: Any, devices: int) -> Any:
    """Returns the `PartitionSpec` of each array of a sharded state, or of sharded gradients."""

    def spec(array: jax.Array) -> P:
        axis = shard_axis(array.shape, devices)
        return P() if axis is None else P(*[None] * axis, AXIS)

    return jax.tree.map(spec, opt_state)


def shard_axis(shape: tuple[int, ...], devices: int) -> int | None:
    """Returns the longest axis that several devices divide evenly, if any."""
    if devices == 1:
        return None
    divisible = [axis for axis, size in enumerate(shape) if size and size % devices == 0]
    return max(divisible, key=lambda axis: shape[axis], default=None)
