"""Runs a part of the training step on some devices."""

import jax

from ast_jax.sharding import REPLICATED, SPLIT
from ast_jax.training.step import loss_and_gradients


def map_loss_and_gradients(parallel, spec):
    """Returns a function of parameters and a batch: loss and gradients, averaged over devices."""

    def on_device(params, batch, key):
        return loss_and_gradients(spec, params, batch, key)

    mapped = parallel.map(on_device, (REPLICATED, SPLIT, REPLICATED))
    return lambda params, batch: mapped(params, parallel.shard_batch(batch), jax.random.key(0))
