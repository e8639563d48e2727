"""Runs a part of the training step on some devices."""

import jax

from ast_jax.sharding import AXIS, REPLICATED, SPLIT
from ast_jax.training.step import loss_and_gradients


def mean_loss_and_gradients(parallel, spec, params, batch):
    """Returns loss and gradients of the whole batch, averaged over the devices."""

    def on_device(params, batch, key):
        return jax.lax.pmean(loss_and_gradients(spec, params, batch, key), AXIS)

    mapped = parallel.map(on_device, (REPLICATED, SPLIT, REPLICATED))
    return mapped(params, parallel.shard_batch(batch), jax.random.key(0))
