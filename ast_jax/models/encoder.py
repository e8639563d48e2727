"""The tokens and the ViT encoder of the Audio Spectrogram Transformer (section 2 of the paper)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ast_jax.errors import InputError
from ast_jax.models.attention import Attention, Weights, token_padding
from ast_jax.models.config import NUM_PREFIX_TOKENS, ASTConfig
from ast_jax.models.layers import MLP, LayerNorm, Outputs, Tokens
from ast_jax.models.padding import (
    NumTokens,
    check_num_frames,
    padding_last,
    real_columns,
    time_major,
)
from ast_jax.models.patches import PatchProjection
from ast_jax.models.remat import name_residual, rematerialize, scan_all_but_last

InputValues = Float[Array | np.ndarray, "batch frames mel_bins"]
KeepIndices = Int[Array | np.ndarray, "batch kept"]
NumFrames = Int[Array | np.ndarray, " batch"]


class Embeddings(nnx.Module):
    """Overlapping patches as tokens behind a class and a distillation token, with positions."""

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        self.patch_projection = PatchProjection(config, rngs=rngs)
        normal = nnx.initializers.normal(config.initializer_range)
        width = config.hidden_size
        self.cls_token = nnx.Param(normal(rngs.params(), (1, 1, width)))
        self.distillation_token = nnx.Param(normal(rngs.params(), (1, 1, width)))
        self.position_embeddings = nnx.Param(normal(rngs.params(), (1, config.num_tokens, width)))
        self.input_shape = (config.max_length, config.num_mel_bins)
        self.grid = config.grid
        self.patch_size, self.time_stride = config.patch_size, config.time_stride

    def __call__(
        self, input_values: InputValues, keep_indices: KeepIndices | None = None
    ) -> Tokens:
        """Returns float32 tokens, patches in frequency-major order.

        Args:
            input_values: normalized log-mels.
            keep_indices: the patches of each clip to return, counted from 0; None for all.
        """
        shape = tuple(getattr(input_values, "shape", ()))
        if shape[1:] != self.input_shape or not shape[0]:
            raise InputError(
                f"input_values, a {type(input_values).__name__}, has shape {shape}; give an array "
                f"(batch, max_length, num_mel_bins) = (batch, {self.input_shape[0]}, "
                f"{self.input_shape[1]})"
            )
        return self._embed(input_values, self.position_embeddings[...], keep_indices)

    def encoder_input(
        self,
        input_values: InputValues,
        keep_indices: KeepIndices | None = None,
        num_frames: NumFrames | None = None,
    ) -> tuple[Tokens, Int[Array, " batch"] | None]:
        """Returns the tokens, and how many of the first to attend to; None for all.

        With `num_frames` as `with_padding_last`, without it as a call.
        """
        if num_frames is None:
            return self(input_values, keep_indices), None
        return self.with_padding_last(input_values, num_frames, keep_indices)

    def with_padding_last(
        self,
        input_values: InputValues,
        num_frames: NumFrames,
        keep_indices: KeepIndices | None = None,
    ) -> tuple[Tokens, Int[Array, " batch"]]:
        """Returns float32 tokens with those of padding last, and the number of others of each clip.

        Patches are in time-major order, or in that of `keep_indices`. A patch is padding if all of
        its frames are.

        Args:
            input_values: normalized log-mels of up to `max_length` frames, padded.
            num_frames: the frames of each clip before padding.
            keep_indices: the patches of each clip to return, counted from 0 in the grid of this
                input; None for all.
        """
        shape = tuple(getattr(input_values, "shape", ()))
        longest, mel_bins = self.input_shape
        frames = shape[1] if len(shape) == 3 and shape[0] and shape[2] == mel_bins else 0
        if not self.patch_size <= frames <= longest:
            raise InputError(
                f"input_values, a {type(input_values).__name__}, has shape {shape}; give an array "
                f"(batch, frames, {mel_bins}) with {self.patch_size} to {longest} frames"
            )
        check_num_frames(num_frames, shape[0])
        rows, columns = self.grid[0], (frames - self.patch_size) // self.time_stride + 1
        real = real_columns(jnp.asarray(num_frames, jnp.int32), self.time_stride, columns)
        positions = self._first_positions(columns)
        if keep_indices is None:
            x = self._embed(input_values, positions)
            return time_major(x, (rows, columns)), NUM_PREFIX_TOKENS + rows * real
        keep_indices, number = padding_last(jnp.asarray(keep_indices), real, columns)
        return self._embed(input_values, positions, keep_indices), NUM_PREFIX_TOKENS + number

    def _first_positions(self, columns: int) -> jax.Array:
        """Returns the position embeddings of the first columns of patches."""
        positions = self.position_embeddings[...]
        prefix, patches = positions[:, :NUM_PREFIX_TOKENS], positions[:, NUM_PREFIX_TOKENS:]
        patches = patches.reshape(*self.grid, -1)[:, :columns]
        return jnp.concatenate([prefix, patches.reshape(1, self.grid[0] * columns, -1)], axis=1)

    def _embed(
        self,
        input_values: InputValues,
        positions: Float[Array, "1 patches_and_prefix hidden"],
        keep_indices: KeepIndices | None = None,
    ) -> Tokens:
        patches = self.patch_projection(jnp.asarray(input_values))
        batch, _, width = patches.shape
        tokens = [
            jnp.broadcast_to(self.cls_token[...], (batch, 1, width)),
            jnp.broadcast_to(self.distillation_token[...], (batch, 1, width)),
            patches,
        ]
        x = jnp.concatenate(tokens, axis=1) + positions
        if keep_indices is not None:
            if keep_indices.ndim != 2 or len(keep_indices) != batch:
                raise ValueError(
                    f"keep_indices has shape {keep_indices.shape}; give it the shape ({batch}, "
                    f"patches kept)"
                )
            indices = jnp.asarray(keep_indices)[..., None]
            patches = jnp.take_along_axis(x[:, NUM_PREFIX_TOKENS:], indices, axis=1)
            x = jnp.concatenate([x[:, :NUM_PREFIX_TOKENS], patches], axis=1)
        return x  # the residual stream is float32, as in PyTorch under autocast


class Layer(nnx.Module):
    """One pre-norm encoder layer."""

    def __init__(self, config: ASTConfig, attn_implementation: str, *, rngs: nnx.Rngs):
        width, epsilon = config.hidden_size, config.layer_norm_eps
        self.layernorm_before = LayerNorm(width, epsilon, config.dtype, rngs=rngs)
        self.attention = Attention(config, attn_implementation, rngs=rngs)
        self.layernorm_after = LayerNorm(width, epsilon, config.dtype, rngs=rngs)
        self.mlp = MLP(config, rngs=rngs)

    def __call__(
        self,
        x: Tokens,
        num_output_tokens: int | None = None,
        num_tokens: NumTokens | None = None,
        output_attentions: bool = False,
        weights_offset: Weights | None = None,
    ) -> tuple[Outputs, Weights | None]:
        """Returns tokens and attention weights; arguments are those of `Attention`."""
        attended, weights = self.attention(
            self.layernorm_before(x),
            num_output_tokens,
            num_tokens,
            output_attentions,
            weights_offset,
        )
        x = name_residual(x[:, :num_output_tokens] + attended, "after_attention")
        x = x + self.mlp(self.layernorm_after(x))
        return x, weights


class Encoder(nnx.Module):
    """`num_hidden_layers` layers as one `Layer` with stacked parameters, without a final norm.

    `jax.lax.scan` runs them: a layer is compiled once, and the optimizer handles 12 arrays instead
    of 144.
    """

    def __init__(self, config: ASTConfig, attn_implementation: str, *, rngs: nnx.Rngs):
        def new_layer(key: jax.Array) -> tuple[nnx.GraphDef, nnx.State]:
            return nnx.split(Layer(config, attn_implementation, rngs=nnx.Rngs(params=key)))

        keys = jax.random.split(rngs.params(), config.num_hidden_layers)
        graphdef = new_layer(keys[0])[0]
        stacked = jax.vmap(lambda key: new_layer(key)[1])(keys)
        self.layers = nnx.merge(graphdef, stacked)

    def __call__(
        self,
        x: Tokens,
        num_output_tokens: int | None = None,
        remat: str = "none",
        map_layer_params: Callable[[Any], Any] = lambda params: params,
        unroll: bool = False,
        num_tokens: NumTokens | None = None,
    ) -> Outputs:
        """Runs the layers.

        Args:
            x: the embeddings.
            num_output_tokens: how many of the first tokens to return; None for all. The last layer
                computes these alone, which saves a twelfth of the work of twelve layers.
            remat: what the backward pass recomputes, see `rematerialize`.
            map_layer_params: applied to one layer's parameters where the layer uses them.
            unroll: whether to unroll the loop over layers where gradients are taken.
            num_tokens: how many of each clip's first tokens are attended to; None for all.
        """
        graphdef, stacked = nnx.split(self.layers)
        total = x.shape[1]
        num_tokens = total if num_tokens is None else num_tokens
        padding = token_padding(self.layers.attention.attn_implementation, total)
        x = jnp.pad(x, ((0, 0), (0, padding), (0, 0)))

        def layer(num_output_tokens: int | None, x: jax.Array, params: nnx.State) -> jax.Array:
            model = nnx.merge(graphdef, map_layer_params(params))
            return model(x, num_output_tokens, num_tokens)[0]

        layers = rematerialize(partial(layer, None), remat)
        last_layer = rematerialize(partial(layer, num_output_tokens), remat)
        x = scan_all_but_last(layers, x, stacked, unroll)
        x = last_layer(x, jax.tree.map(lambda p: p[-1], stacked))
        return x[:, :total]

    def intermediates(
        self, x: Tokens, output_attentions: bool, num_tokens: NumTokens | None = None
    ) -> tuple[
        Float[Array, "states batch tokens hidden"],
        Float[Array, "layers batch heads tokens tokens"] | None,
    ]:
        """Returns the embeddings and each layer's output, and attention weights or None."""
        graphdef, stacked = nnx.split(self.layers)

        def step(x: jax.Array, params: nnx.State) -> tuple[jax.Array, tuple]:
            y, weights = nnx.merge(graphdef, params)(
                x, num_tokens=num_tokens, output_attentions=output_attentions
            )
            return y, (y, weights)

        _, (outputs, attentions) = jax.lax.scan(step, x, stacked)
        return jnp.concatenate([x[None], outputs]), attentions
