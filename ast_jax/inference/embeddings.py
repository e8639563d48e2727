"""Embeddings of sounds: the tokens of a layer of the encoder, pooled or on their grid."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ast_jax.errors import InputError
from ast_jax.inference.batching import check_count, map_batches
from ast_jax.models.ast import ASTModel
from ast_jax.models.config import NUM_PREFIX_TOKENS, ASTConfig
from ast_jax.models.encoder import InputValues, NumFrames
from ast_jax.models.padding import frequency_major

# Ways to make an embedding of a clip's tokens; (hidden,) each but the last.
POOLINGS = {
    "pooled": "the mean of the class and the distillation token, as pooler_output",
    "cls": "the class token",
    "distillation": "the distillation token",
    "mean": "the mean of the patches",
    "patches": "every patch, (frequency, time, hidden)",
}


class Embedder:
    """Computes embeddings of model inputs, in batches of which the last is padded.

    Args:
        model: the model without its classifier; its parameters are shared, not copied.
        count_frames: returns the model's `num_frames` for model inputs, or None.
    """

    def __init__(
        self,
        model: ASTModel,
        count_frames: Callable[[jax.Array], jax.Array | None] = lambda input_values: None,
    ):
        self.config = model.config
        graphdef, self._params = nnx.split(model)

        @partial(jax.jit, static_argnames=("pooling", "layer"))
        def apply_model(
            params: nnx.State, input_values: jax.Array, pooling: str, layer: int | None
        ) -> jax.Array:
            num_frames = count_frames(input_values)
            model = nnx.merge(graphdef, params)
            return compute_embeddings(model, input_values, pooling, layer, num_frames)

        self._apply_model = apply_model

    def __call__(
        self, inputs: Iterable[np.ndarray], pooling: str, layer: int | None, batch_size: int
    ) -> Iterator[np.ndarray]:
        """Yields the embedding of each input; arguments and errors are those of `embed_inputs`."""
        check_count("batch_size", batch_size)
        layer = check_embedding(self.config, pooling, layer)
        compute = partial(self._apply_model, self._params, pooling=pooling, layer=layer)
        return map_batches(compute, iter(inputs), batch_size)


def check_embedding(config: ASTConfig, pooling: Any, layer: Any) -> int | None:
    """Checks the choice of an embedding; returns the layer, counted from the embeddings.

    Args:
        config: the model's configuration.
        pooling: one of `POOLINGS`.
        layer: None for the tokens after the final layer norm, or an index into `hidden_states`,
            negative from the last.

    Raises:
        InputError: there is no such pooling or layer.
    """
    if not isinstance(pooling, str) or pooling not in POOLINGS:
        raise InputError(f"pooling is {pooling!r}; give one of {', '.join(POOLINGS)}")
    if layer is None:
        return None
    states = config.num_hidden_layers + 1
    is_index = isinstance(layer, int | np.integer) and not isinstance(layer, bool)
    if not is_index or not -states <= layer < states:
        raise InputError(
            f"layer is {layer!r}; give one from 0 (the patch embeddings) to {states - 1} (the last "
            f"layer), a negative one from {-states} to -1, or None (after the final norm)"
        )
    return int(layer) % states


def embedding_shape(config: ASTConfig, pooling: str) -> tuple[int, ...]:
    """Returns the shape of one clip's embedding."""
    return (*(config.grid if pooling == "patches" else ()), config.hidden_size)


def compute_embeddings(
    model: ASTModel,
    input_values: InputValues,
    pooling: str,
    layer: int | None,
    num_frames: NumFrames | None = None,
) -> Float[Array, "batch ..."]:
    """Computes the embeddings of clips, for which layers above `layer` are not run.

    As in Hugging Face's model, `hidden_states[layer]` has no final layer norm: not the last of them
    either.

    Args:
        model: without its classifier; its encoder's upper layers are removed.
        input_values: normalized log-mels.
        pooling: one of `POOLINGS`.
        layer: an index into `hidden_states` from 0, or None for the tokens after the final norm.
        num_frames: of each clip before padding, the patches of which are then not in a mean, and 0
            among "patches". None: padding is part of the clip.
    """
    # The last layer that is run need not compute the patches if they are not used.
    num_output_tokens = None if pooling in ("mean", "patches") else NUM_PREFIX_TOKENS
    x, num_tokens = model.embeddings.encoder_input(input_values, num_frames=num_frames)
    if layer is None:
        x = model.layernorm(model.encoder(x, num_output_tokens, num_tokens=num_tokens))
    elif layer > 0:
        graphdef, stacked = nnx.split(model.encoder.layers)
        model.encoder.layers = nnx.merge(graphdef, jax.tree.map(lambda p: p[:layer], stacked))
        x = model.encoder(x, num_output_tokens, num_tokens=num_tokens)
    if num_tokens is None or num_output_tokens is not None:
        return pool_tokens(model.config, x, pooling)
    is_padding = jnp.arange(x.shape[1]) >= num_tokens[:, None]
    x = jnp.where(is_padding[:, :, None], 0, x)
    if pooling == "mean":
        return x[:, NUM_PREFIX_TOKENS:].sum(axis=1) / (num_tokens[:, None] - NUM_PREFIX_TOKENS)
    return pool_tokens(model.config, frequency_major(x, model.config.grid), pooling)


def pool_tokens(
    config: ASTConfig, tokens: Float[Array, "batch tokens hidden"], pooling: str
) -> Float[Array, "batch ..."]:
    """Returns embeddings from tokens; of "pooled", "cls" and "distillation" the first two do."""
    patches = tokens[:, NUM_PREFIX_TOKENS:]
    if pooling == "mean":
        return patches.mean(axis=1)
    if pooling == "patches":
        return patches.reshape(len(tokens), *config.grid, config.hidden_size)
    if pooling == "pooled":
        return tokens[:, :NUM_PREFIX_TOKENS].mean(axis=1)
    return tokens[:, 0 if pooling == "cls" else 1]
