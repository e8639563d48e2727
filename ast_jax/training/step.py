"""The training step, written for one device.

`ast_jax.sharding` maps it over all devices under the axis name 'data'. Gradients are exchanged by
the collectives in `loss_and_gradients` and `pmean_gradient`, and updates by the optimizer's.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from ast_jax.audio.augment import noise, restore_padding, roll, spec_augment
from ast_jax.audio.fbank_jax import batch_input_values
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.config import AugmentConfig
from ast_jax.losses import Loss
from ast_jax.models.ast import Params
from ast_jax.models.config import ASTConfig
from ast_jax.models.padding import real_columns
from ast_jax.models.patchout import sample_patchout
from ast_jax.sharding import AXIS
from ast_jax.training.optimizer import global_norm, shard_axis

Batch = dict[str, jax.Array]  # `targets`, and what `batch_input_values` takes

ClipKeys = Key[Array, "clips"]
NumFrames = jax.Array | None  # (clips,), frames before padding; None if it is not masked
Augment = Callable[[ClipKeys, jax.Array, NumFrames], jax.Array]
Patchout = Callable[[ClipKeys, int, NumFrames], jax.Array]


class TrainState(NamedTuple):
    """The state that a training step updates.

    Attributes:
        params: the trained parameters.
        opt_state: the optimizer's state.
        ema: the exponential moving average of the parameters, or None.
        average: the mean of the parameters after some epochs, or None; the loop updates it.
        step: the number of steps taken, int32 ().
    """

    params: Params
    opt_state: optax.OptState
    ema: Params | None
    average: Params | None
    step: jax.Array

    @property
    def eval_params(self) -> Params:
        """The parameters to evaluate: their moving average where there is one."""
        return self.params if self.ema is None else self.ema


class StepMetrics(NamedTuple):
    """Metrics of one step, float32 () each.

    Attributes:
        loss: over the whole batch, before the update.
        grad_norm: global norm of the gradient, before clipping.
        learning_rate: of the step.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    learning_rate: Float[Array, ""]


class StepSpec(NamedTuple):
    """The constants of the compiled step.

    Attributes:
        graphdef: the model without its parameters.
        extractor: computes input values where a batch holds waveforms.
        loss: (logits, targets) → ().
        optimizer: turns gradients into updates for a learning rate of one.
        schedule: step → learning rate.
        key: root of all randomness of the steps.
        augment: (keys (clips,), input_values, num_frames) → input_values.
        patchout: (keys (clips,), frames of the input, num_frames) → the patches kept of each clip;
            None keeps all.
        grad_accum_steps: microbatches that a device splits its batch into.
        num_shards: devices that gradients and the optimizer's state are sharded over (ZeRO-1); 1
            replicates both.
        remat: what the backward pass recomputes, see `ast_jax.models.remat`.
        exchange_by_layer: whether each layer's gradients are exchanged in the backward pass.
        unroll: whether to unroll the loop over layers.
        ema_decay: decay of `TrainState.ema`.
    """

    graphdef: nnx.GraphDef
    extractor: ASTFeatureExtractor
    loss: Loss
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    key: PRNGKeyArray
    augment: Augment = lambda keys, input_values, num_frames: input_values
    patchout: Patchout | None = None
    grad_accum_steps: int = 1
    num_shards: int = 1
    remat: str = "norms_and_activations"
    exchange_by_layer: bool = False
    unroll: bool = False
    ema_decay: float = 0.0


def train_step(spec: StepSpec, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
    """Takes one optimizer step on a device's share of the batch.

    A step with a loss or gradient that is not finite is counted and changes nothing else.
    """
    key = jax.random.fold_in(spec.key, state.step)
    loss, grads = loss_and_gradients(spec, state.params, batch, key)

    learning_rate = jnp.asarray(spec.schedule(state.step), jnp.float32)
    updates, opt_state = spec.optimizer.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, updates)
    ema = update_ema(state.ema, params, spec.ema_decay)

    grad_norm = global_norm(grads, state.params)
    new = state._replace(params=params, opt_state=opt_state, ema=ema)
    new = apply_if_finite(jnp.isfinite(loss) & jnp.isfinite(grad_norm), new, state)
    return new._replace(step=state.step + 1), StepMetrics(loss, grad_norm, learning_rate)


def loss_and_gradients(
    spec: StepSpec, params: Params, batch: Batch, key: PRNGKeyArray
) -> tuple[Float[Array, ""], Params]:
    """Computes the mean loss over all devices and its gradients, with ZeRO-1 a device's shards.

    With `exchange_by_layer` the backward pass exchanges each layer's gradients while it computes
    those of the layer before. Otherwise they are exchanged after it, with microbatches after the
    last, and with ZeRO-1 each device gets a shard.
    """
    clips = len(batch["targets"])
    keys = clip_keys(key, jax.lax.axis_index(AXIS) * clips, clips)

    def loss_of(params: Params, batch: Batch, keys: ClipKeys) -> jax.Array:
        inputs = batch_input_values(batch, spec.extractor)
        num_frames = frames_before_padding(batch, inputs)
        inputs = augment_inputs(spec.augment, keys, inputs, num_frames)
        keep_indices = spec.patchout(keys, inputs.shape[1], num_frames) if spec.patchout else None
        options: dict[str, Any] = {"remat": spec.remat, "unroll": spec.unroll}
        if spec.exchange_by_layer:
            options["map_layer_params"] = pmean_gradient
        model = nnx.merge(spec.graphdef, params)
        logits = model(inputs, keep_indices, num_frames=num_frames, **options)
        return spec.loss(logits, batch["targets"])

    def exchange(path: tuple, gradient: jax.Array) -> jax.Array:
        if spec.exchange_by_layer and jax.tree_util.DictKey("layers") in path:
            return gradient  # averaged in the backward pass
        axis = shard_axis(gradient.shape, spec.num_shards)
        if axis is None:
            return jax.lax.pmean(gradient, AXIS)
        total = jax.lax.psum_scatter(gradient, AXIS, scatter_dimension=axis, tiled=True)
        return total / spec.num_shards

    loss, grads = accumulate_gradients(loss_of, params, (batch, keys), spec.grad_accum_steps)
    return jax.lax.pmean(loss, AXIS), jax.tree.map_with_path(exchange, grads)


def frames_before_padding(batch: Mapping[str, Any], inputs: jax.Array) -> NumFrames:
    """Returns the frames of each clip before padding; None for batches that do not mask it."""
    num_frames = batch.get("num_frames")
    return None if num_frames is None else jnp.minimum(num_frames, inputs.shape[1])


def augment_inputs(
    augment: Augment, keys: ClipKeys, inputs: jax.Array, num_frames: NumFrames
) -> jax.Array:
    """Returns augmented clips; padding stays as it is if it is masked."""
    augmented = augment(keys, inputs, num_frames)
    return augmented if num_frames is None else restore_padding(augmented, inputs, num_frames)


@jax.custom_vjp
def pmean_gradient(params: Params) -> Params:
    """Returns parameters unchanged, and averages their gradients over the devices."""
    return params


pmean_gradient.defvjp(
    lambda params: (params, None), lambda _, gradients: (jax.lax.pmean(gradients, AXIS),)
)


def accumulate_gradients(
    loss_of: Callable[..., jax.Array], params: Params, data: Any, num_microbatches: int
) -> tuple[Float[Array, ""], Params]:
    """Computes the mean loss and gradients over equal microbatches, one after another.

    Args:
        loss_of: (params, *data) → the mean loss.
        params: to differentiate by.
        data: a tuple of trees of arrays with a leading batch axis.
        num_microbatches: divides the batch.
    """
    if num_microbatches == 1:
        return jax.value_and_grad(loss_of)(params, *data)
    data = jax.tree.map(lambda x: x.reshape(num_microbatches, -1, *x.shape[1:]), data)

    def add(total: Any, microbatch: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, jax.value_and_grad(loss_of)(params, *microbatch)), None

    zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
    total, _ = jax.lax.scan(add, zeros, data)
    return jax.tree.map(lambda x: x / num_microbatches, total)


def clip_keys(key: PRNGKeyArray, first: Any, clips: int) -> ClipKeys:
    """Returns keys (clips,) for positions `first` onwards of the batch.

    A clip's key depends on its position in the whole batch alone, so that augmentation is the
    same on any number of devices and in any number of microbatches.
    """
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(clips))


def update_ema(ema: Params | None, params: Params, decay: float) -> Params | None:
    """Returns the exponential moving average after another step; None stays None."""
    if ema is None:
        return None
    return jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, params)


def apply_if_finite(finite: Bool[Array, ""], new: Any, old: Any) -> Any:
    """Returns `new` where `finite` holds, else `old`.

    `where` rather than `lax.cond`, for which an accelerator waits for its host.
    """
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)


def init_state(
    params: Params, optimizer: optax.GradientTransformation, *, ema: bool, average: bool
) -> TrainState:
    """Returns the state before the first step, with an EMA and an average of epochs if asked."""
    return TrainState(
        params,
        optimizer.init(params),
        jax.tree.map(jnp.array, params) if ema else None,
        jax.tree.map(jnp.zeros_like, params) if average else None,
        jnp.zeros((), jnp.int32),
    )


def make_augment(config: AugmentConfig, extractor: ASTFeatureExtractor) -> Augment:
    """Returns the augmentation of a configuration: SpecAugment, then noise, then a roll.

    With `num_frames`, masks and rolls are within the frames before padding.
    """
    # The original masks with 0, before normalization.
    fill = -extractor.mean / (2 * extractor.std)

    def augment_clip(key: PRNGKeyArray, clip: jax.Array, num_frames: NumFrames) -> jax.Array:
        own_frames = None if num_frames is None else num_frames[None]
        mask_key, noise_key, roll_key = jax.random.split(key, 3)
        masked = spec_augment(
            mask_key,
            clip[None],
            frequency_mask=config.frequency_mask,
            time_mask=config.time_mask,
            fill=fill,
            num_frames=own_frames,
        )
        noisy = noise(noise_key, masked) if config.noise else masked
        return roll(roll_key, noisy, config.roll, own_frames)[0]

    return jax.vmap(augment_clip)


def make_patchout(config: AugmentConfig, model: ASTConfig) -> Patchout | None:
    """Returns the Patchout of a configuration for a model, or None if it has none.

    Of a shorter input, and of the frames before padding, the same share of columns is dropped.
    """
    if not config.patchout_frequency and not config.patchout_time:
        return None
    rows, all_columns = model.grid

    def patchout(keys: ClipKeys, frames: int, num_frames: NumFrames) -> jax.Array:
        columns = (frames - model.patch_size) // model.time_stride + 1
        dropped = config.patchout_time * columns // all_columns
        real = None
        if num_frames is not None:
            real = real_columns(num_frames, model.time_stride, columns)

        def clip_patchout(key: PRNGKeyArray, real: jax.Array | None) -> jax.Array:
            # `augment_clip` splits the same key in three; a fold is independent of those.
            key = jax.random.fold_in(key, 3)
            return sample_patchout(key, (rows, columns), config.patchout_frequency, dropped, real)

        return jax.vmap(clip_patchout)(keys, real)

    return patchout
