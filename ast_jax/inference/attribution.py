"""Attributes a model's answer to the patches of one clip.

- `rollout`: Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (ACL 2020).
- `relevance`: Chefer, Gur and Wolf, "Generic Attention-model Explainability" (ICCV 2021).
- `prefix_attention`: the attention weights of the class and the distillation token themselves.

The head reads the mean of the class and the distillation token, and so do the first two. Both
multiply matrices of all layers, of which only these two rows are needed: from the last layer to
the first a row is multiplied by one matrix at a time. Each layer is recomputed from its input, so
that the attention weights of one layer, and their gradient for one class, are in memory at a time.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from ast_jax.models.ast import ASTForAudioClassification
from ast_jax.models.config import NUM_PREFIX_TOKENS
from ast_jax.models.padding import NumTokens, frequency_major

InputValues = Float[Array, "1 frames mel_bins"]
NumFrames = Int[Array, "1"]


@partial(jax.jit, static_argnums=0)
def rollout(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    input_values: InputValues,
    num_frames: NumFrames | None = None,
) -> Float32[Array, " tokens"]:
    """Computes the rollout of attention: how much of each input token reaches the head.

    A layer's matrix is (I + mean over heads of the weights) / 2, where I stands for the residual
    connection. The tokens' shares sum to 1.

    Args:
        graphdef: of an `ASTForAudioClassification`.
        params: of the model.
        input_values: one normalized log-mel.
        num_frames: the frames of the clip before padding, which is then masked; None for all.
    """
    model = nnx.merge(graphdef, params)
    layer_graphdef, stacked = nnx.split(model.ast.encoder.layers)
    states, num_tokens = _hidden_states(model, input_values, num_frames)

    def step(row: jax.Array, layer: tuple[jax.Array, nnx.State]) -> tuple[jax.Array, None]:
        x, layer_params = layer
        layer_model = nnx.merge(layer_graphdef, layer_params)
        _, weights = layer_model(x, num_tokens=num_tokens, output_attentions=True)
        mean = weights[0].astype(jnp.float32).mean(axis=0)
        return (row + row @ mean) / 2, None

    row = _head_row(states.shape[2])
    row, _ = jax.lax.scan(step, row, (states[:-1], stacked), reverse=True)
    return _in_order(model, row, num_frames)


@partial(jax.jit, static_argnums=0)
def relevance(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    input_values: InputValues,
    classes: Int[Array, " classes"],
    num_frames: NumFrames | None = None,
) -> Float32[Array, "classes tokens"]:
    """Computes the relevance of each input token to the logit of each class.

    From R = I on, each layer adds mean over heads of (∇A ⊙ A)⁺, multiplied by R: A are the
    attention weights, ∇A is the logit's gradient with respect to them.

    Args:
        graphdef: of an `ASTForAudioClassification`.
        params: of the model.
        input_values: one normalized log-mel.
        classes: the indices of the classes.
        num_frames: the frames of the clip before padding, which is then masked; None for all.
    """
    model = nnx.merge(graphdef, params)
    layer_graphdef, stacked = nnx.split(model.ast.encoder.layers)
    states, num_tokens = _hidden_states(model, input_values, num_frames)
    num_heads, tokens = model.config.num_attention_heads, states.shape[2]

    def class_logits(x: jax.Array) -> jax.Array:
        pooled = model.ast.layernorm(x[:, :NUM_PREFIX_TOKENS]).mean(axis=1)
        return model.classifier(pooled)[0, classes]

    def step(
        carry: tuple[jax.Array, jax.Array], layer: tuple[jax.Array, nnx.State]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        x, layer_params = layer

        def run(x: jax.Array, offset: jax.Array) -> tuple[jax.Array, jax.Array]:
            layer_model = nnx.merge(layer_graphdef, layer_params)
            y, weights = layer_model(
                x, num_tokens=num_tokens, output_attentions=True, weights_offset=offset
            )
            assert weights is not None
            return y, weights

        zeros = jnp.zeros((1, num_heads, tokens, tokens), model.config.dtype)
        _, vjp, weights = jax.vjp(run, x, zeros, has_aux=True)

        def one_class(dy_and_row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            dy, row = dy_and_row
            dx, dweights = vjp(dy)
            products = (dweights[0] * weights[0]).astype(jnp.float32)
            return dx, row + row @ jnp.maximum(products, 0).mean(axis=0)

        return jax.lax.map(one_class, carry), None

    dlogits = jax.jacrev(class_logits)(states[-1])
    rows = jnp.broadcast_to(_head_row(tokens), (len(classes), tokens))
    (_, rows), _ = jax.lax.scan(step, (dlogits, rows), (states[:-1], stacked), reverse=True)
    return _in_order(model, rows, num_frames)


@partial(jax.jit, static_argnums=0)
def prefix_attention(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    input_values: InputValues,
    num_frames: NumFrames | None = None,
) -> Float32[Array, "layers heads prefix tokens"]:
    """Returns the attention weights of the class and the distillation token in each layer.

    Args:
        graphdef: of an `ASTForAudioClassification`.
        params: of the model.
        input_values: one normalized log-mel.
        num_frames: the frames of the clip before padding, which is then masked; None for all.
    """
    model = nnx.merge(graphdef, params)
    layer_graphdef, stacked = nnx.split(model.ast.encoder.layers)
    states, num_tokens = _hidden_states(model, input_values, num_frames)

    def step(_: None, layer: tuple[jax.Array, nnx.State]) -> tuple[None, jax.Array]:
        x, layer_params = layer
        layer_model = nnx.merge(layer_graphdef, layer_params)
        _, weights = layer_model(x, NUM_PREFIX_TOKENS, num_tokens, output_attentions=True)
        return None, weights[0]

    _, weights = jax.lax.scan(step, None, (states[:-1], stacked))
    return _in_order(model, weights.astype(jnp.float32), num_frames)


def _hidden_states(
    model: ASTForAudioClassification, input_values: jax.Array, num_frames: jax.Array | None
) -> tuple[Float[Array, "states 1 tokens hidden"], NumTokens | None]:
    """Returns the input of each layer and the output of the last, and the tokens attended to."""
    x, num_tokens = model.ast.embeddings.encoder_input(input_values, num_frames=num_frames)
    return model.ast.encoder.intermediates(x, False, num_tokens)[0], num_tokens


def _in_order(
    model: ASTForAudioClassification, x: jax.Array, num_frames: jax.Array | None
) -> jax.Array:
    """Returns values of tokens, on the last axis, with patches in frequency-major order."""
    return x if num_frames is None else frequency_major(x, model.config.grid, x.ndim - 1)


def _head_row(num_tokens: int) -> Float32[Array, " tokens"]:
    """Returns the shares of the last layer's tokens in what the head reads."""
    return jnp.where(jnp.arange(num_tokens) < NUM_PREFIX_TOKENS, 1 / NUM_PREFIX_TOKENS, 0.0)
