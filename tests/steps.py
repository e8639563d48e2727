"""A small training step, and a part of it on some devices."""

import jax
import optax

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.losses import cross_entropy
from ast_jax.models.ast import graphdef
from ast_jax.sharding import REPLICATED, SPLIT
from ast_jax.training.step import StepSpec, loss_and_gradients


def make_spec(model, **changes):
    """Returns the constants of a step without augmentation, by plain gradients."""
    spec = StepSpec(
        graphdef(model),
        ASTFeatureExtractor(max_length=64, num_mel_bins=32, mean=-6.0, std=5.0),
        cross_entropy,
        optax.identity(),
        lambda number: 1e-2 * (number + 1),
        jax.random.key(0),
    )
    return spec._replace(**changes)


def map_loss_and_gradients(parallel, spec):
    """Returns a function of parameters and a batch: loss and gradients, averaged over devices."""

    def on_device(params, batch, key):
        return loss_and_gradients(spec, params, batch, key)

    mapped = parallel.map(on_device, (REPLICATED, SPLIT, REPLICATED))
    return lambda params, batch: mapped(params, parallel.shard_batch(batch), jax.random.key(0))
