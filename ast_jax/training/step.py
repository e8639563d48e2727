"""The training step and the evaluation step, each written for one device.

They are mapped over devices by `ast_jax.sharding`, under the axis name 'data'; what
devices share goes through `lax.pmean` here, in plain sight.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

AXIS = "data"

Params = dict[str, Any]
# Inputs (see `ast_jax.data.batches.Inputs`), `targets`, and where several processes train `stop`:
# above 0 in the rows of a process that was asked to end.
Batch = dict[str, jax.Array]
Loss = Callable[[jax.Array, jax.Array], jax.Array]
Inputs = Callable[[Batch], jax.Array]  # a batch → input_values
Augment = Callable[[jax.Array, jax.Array], jax.Array]  # (keys, input_values) → input_values
Patchout = Callable[[jax.Array], jax.Array]  # keys → the patches kept of each clip
Trained = tuple[Params, optax.OptState, Params | None]  # the first three of a `TrainState`
GradientFn = Callable[[Params, Batch, jax.Array], tuple[jax.Array, Params]]


class TrainState(NamedTuple):
    """What a training step changes.

    Attributes:
        params: those trained.
        opt_state: the optimizer's.
        ema: the moving average of the parameters, or None.
        average: the mean of the parameters after some epochs, or None.
        step: how many steps were taken, int32 ().
    """

    params: Params
    opt_state: optax.OptState
    ema: Params | None
    average: Params | None
    step: jax.Array


class StepMetrics(NamedTuple):
    """What a training step tells, float32 () each.

    Attributes:
        loss: before the step, over the whole batch.
        gradient_norm: of all parameters' gradient, before any clipping.
        learning_rate: of the step.
        stop: above 0 if any process was asked to end: all learn it of the same step.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    learning_rate: jax.Array
    stop: jax.Array


def make_gradient_fn(
    graphdef: nnx.GraphDef,
    loss: Loss,
    augment: Augment,
    inputs: Inputs = host_inputs,
    accumulate: int = 1,
    patchout: Patchout | None = None,
    remat: bool = False,
) -> GradientFn:
    """(params, a device's batch, key) → loss and gradients, averaged over the devices.

    A device takes its batch in `accumulate` equal parts, one after another. Each clip is
    augmented by a key of its own, the same on any number of devices and in any number of parts.
    With `remat` it computes each layer anew for the backward pass.
    """

    def of_part(params: Params, batch: Batch, keys: jax.Array) -> tuple[jax.Array, Params]:
        augmented = augment(keys, inputs(batch))
        kept = patchout(keys) if patchout else None

        def loss_of(params: Params) -> jax.Array:
            logits = nnx.merge(graphdef, params)(augmented, kept, training=True, remat=remat)
            return loss(logits, batch["targets"])

        return jax.value_and_grad(loss_of)(params)

    def of_parts(params: Params, batch: Batch, keys: jax.Array) -> tuple[jax.Array, Params]:
        parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), (batch, keys))

        def add(total: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, of_part(params, *part)), None

        nothing = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        total, _ = jax.lax.scan(add, nothing, parts)
        return jax.tree.map(lambda x: x / accumulate, total)

    def gradient_fn(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Params]:
        clips = len(batch["targets"])
        keys = clip_keys(key, jax.lax.axis_index(AXIS) * clips, clips)
        of_batch = of_part if accumulate == 1 else of_parts
        loss_and_gradients = of_batch(params, batch, keys)
        if jax.lax.axis_size(AXIS) == 1:  # there is nothing to average, and a CPU would copy it
            return loss_and_gradients
        return jax.lax.pmean(loss_and_gradients, AXIS)

    return gradient_fn


def clip_keys(key: jax.Array, first: jax.Array | int, clips: int) -> jax.Array:
    """A step's keys (clips,) for the clips of its batch from place `first` on."""
    places = first + jnp.arange(clips)
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(places)


def make_train_step(
    gradient_fn: GradientFn,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    key: jax.Array,
    ema_decay: float = 0.0,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """(state, a device's batch) → the next state and the step's metrics.

    The optimizer makes gradients updates of rate one. A step whose loss or gradient is not
    finite counts, and changes nothing else.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        step_key = jax.random.fold_in(key, state.step)
        loss, gradients = gradient_fn(state.params, batch, step_key)
        norm, rate = optax.tree.norm(gradients), jnp.asarray(schedule(state.step), jnp.float32)

        def updated(trained: Trained) -> Trained:
            params, opt_state, ema = trained
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
            if ema is not None:
                ema = jax.tree.map(lambda e, p: ema_decay * e + (1 - ema_decay) * p, ema, params)
            return params, opt_state, ema

        sound = jnp.isfinite(loss) & jnp.isfinite(norm)
        params, opt_state, ema = _changed_if(sound, updated, state[:3])
        after = TrainState(params, opt_state, ema, state.average, state.step + 1)
        stop = jax.lax.pmax(batch["stop"].max(), AXIS) if "stop" in batch else jnp.zeros(())
        return after, StepMetrics(loss, norm, rate, stop)

    return train_step


def _changed_if(
    condition: jax.Array, change: Callable[[Trained], Trained], trained: Trained
) -> Trained:
    """What was trained, changed if the condition is met, which must be one on all devices.

    Where a program is let choose, an accelerator waits for its host. A CPU need not wait, and
    would copy parameters and moments to have those before beside those after.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.cond(condition, change, lambda trained: trained, trained)
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), change(trained), trained)


def make_predict(
    graphdef: nnx.GraphDef, inputs: Inputs = host_inputs
) -> Callable[[Params, Batch], jax.Array]:
    """(params, a device's batch) → float32 logits."""

    def predict(params: Params, batch: Batch) -> jax.Array:
        return nnx.merge(graphdef, params)(inputs(batch))

    return predict


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    ema: bool = False,
    average: bool = False,
) -> TrainState:
    """The state before the first step, with a moving average and a mean of epochs if asked."""
    return TrainState(
        params,
        optimizer.init(params),
        jax.tree.map(jnp.array, params) if ema else None,
        jax.tree.map(jnp.zeros_like, params) if average else None,
        jnp.zeros((), jnp.int32),
    )
