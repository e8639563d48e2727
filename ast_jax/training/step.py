"""The training step and the evaluation step, each written for one device.

They are mapped over devices by `ast_jax.training.parallel`, under the axis name 'data'; what
devices share goes through `lax.pmean` here, in plain sight.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ast_jax.audio.fbank_jax import input_values
from ast_jax.audio.feature_extractor import ASTFeatureExtractor

AXIS = "data"

Params = dict[str, Any]
Batch = dict[str, jax.Array]
Loss = Callable[[jax.Array, jax.Array], jax.Array]
Inputs = Callable[[Batch], jax.Array]  # a batch → input_values
Augment = Callable[[jax.Array, jax.Array], jax.Array]  # (key, input_values) → input_values
GradientFn = Callable[[Params, Batch, jax.Array], tuple[jax.Array, Params]]


class TrainState(NamedTuple):
    """What a training step changes. `step` counts the steps taken, int32 ()."""

    params: Params
    opt_state: optax.OptState
    step: jax.Array


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean softmax cross-entropy of (batch, classes) logits against class probabilities."""
    return optax.softmax_cross_entropy(logits, targets).mean()


def binary_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean sigmoid cross-entropy over all clips and classes, as torch's BCEWithLogitsLoss."""
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean()


def host_inputs(batch: Batch) -> jax.Array:
    """The `input_values` that the host computed."""
    return batch["input_values"]


def make_device_inputs(extractor: ASTFeatureExtractor) -> Inputs:
    """Input values from `waveforms` and `lengths`, computed where the step runs."""

    def device_inputs(batch: Batch) -> jax.Array:
        return input_values(batch["waveforms"], batch["lengths"], extractor)

    return device_inputs


def make_gradient_fn(
    graphdef: nnx.GraphDef, loss: Loss, augment: Augment, inputs: Inputs = host_inputs
) -> GradientFn:
    """(params, a device's batch, key) → loss and gradients, averaged over the devices."""

    def gradient_fn(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Params]:
        key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
        augmented = augment(key, inputs(batch))

        def loss_of(params: Params) -> jax.Array:
            return loss(nnx.merge(graphdef, params)(augmented), batch["targets"])

        return jax.lax.pmean(jax.value_and_grad(loss_of)(params), AXIS)

    return gradient_fn


def make_train_step(
    gradient_fn: GradientFn, optimizer: optax.GradientTransformation, key: jax.Array
) -> Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]:
    """(state, a device's batch) → the next state and the loss before it."""

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        step_key = jax.random.fold_in(key, state.step)
        loss, gradients = gradient_fn(state.params, batch, step_key)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, opt_state, state.step + 1), loss

    return train_step


def make_predict(
    graphdef: nnx.GraphDef, inputs: Inputs = host_inputs
) -> Callable[[Params, Batch], jax.Array]:
    """(params, a device's batch) → float32 logits."""

    def predict(params: Params, batch: Batch) -> jax.Array:
        return nnx.merge(graphdef, params)(inputs(batch))

    return predict


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))
