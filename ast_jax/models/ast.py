"""The Audio Spectrogram Transformer (Gong, Chung, Glass; Interspeech 2021)."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import nnx

from ast_jax.models.config import ASTConfig
from ast_jax.models.encoder import Encoder
from ast_jax.models.int8 import quantized
from ast_jax.models.layers import layer_norm

NUM_PREFIX_TOKENS = 2  # tokens before the patches: class and distillation


class ASTOutput(NamedTuple):
    """What `ASTModel` returns; names and order as Hugging Face's.

    Attributes:
        last_hidden_state: (batch, tokens, hidden), after the final layer norm.
        pooler_output: (batch, hidden) float32, mean of class and distillation token.
        hidden_states: (layers + 1, batch, tokens, hidden), the embeddings first, or None.
        attentions: (layers, batch, heads, tokens, tokens), or None.
    """

    last_hidden_state: jax.Array
    pooler_output: jax.Array
    hidden_states: jax.Array | None = None
    attentions: jax.Array | None = None


def torch_uniform(fan_in: int) -> nnx.Initializer:
    """PyTorch's default for a Linear's or Conv's weight and bias: U(-1/√fan_in, 1/√fan_in)."""
    limit = fan_in**-0.5

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32, **_: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


class Embeddings(nnx.Module):
    """Overlapping patches as tokens behind a class and a distillation token, with positions."""

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        size = config.patch_size
        # The original makes this convolution anew and leaves it at PyTorch's own default.
        init = torch_uniform(fan_in=size * size)
        self.patch_projection = nnx.Conv(
            1,
            config.hidden_size,
            kernel_size=(size, size),
            strides=(config.frequency_stride, config.time_stride),
            padding="VALID",
            kernel_init=init,
            bias_init=init,
            dtype=jnp.dtype(config.activation_dtype),
            rngs=rngs,
        )
        # timm's trunc_normal_(std=.02) cuts at ±2, a hundred deviations out: a plain normal.
        normal = nnx.initializers.normal(config.initializer_range)
        width = config.hidden_size
        self.cls_token = nnx.Param(normal(rngs.params(), (1, 1, width)))
        self.distillation_token = nnx.Param(normal(rngs.params(), (1, 1, width)))
        self.position_embeddings = nnx.Param(normal(rngs.params(), (1, config.num_tokens, width)))
        self.input_shape = (config.max_length, config.num_mel_bins)

    def __call__(self, input_values: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        """(batch, max_length, num_mel_bins) → (batch, tokens, hidden), frequency-major.

        With `kept`, int (batch, some), of those patches alone, counted from 0.
        """
        if input_values.ndim != 3 or input_values.shape[1:] != self.input_shape:
            raise ValueError(
                f"input_values has shape {input_values.shape}; this model takes (batch, "
                f"max_length, num_mel_bins) = (batch, {self.input_shape[0]}, "
                f"{self.input_shape[1]})"
            )
        image = jnp.swapaxes(input_values, 1, 2)[..., None]  # (batch, mel bins, frames, 1)
        patches = self.patch_projection(image)
        batch, frequency, time, width = patches.shape
        tokens = [
            jnp.broadcast_to(self.cls_token[...], (batch, 1, width)),
            jnp.broadcast_to(self.distillation_token[...], (batch, 1, width)),
            patches.reshape(batch, frequency * time, width),
        ]
        x = jnp.concatenate(tokens, axis=1) + self.position_embeddings[...]
        if kept is not None:
            if kept.ndim != 2 or len(kept) != batch:
                raise ValueError(f"kept has shape {kept.shape}; give some patches of {batch} clips")
            patches = jnp.take_along_axis(x[:, NUM_PREFIX_TOKENS:], kept[..., None], axis=1)
            x = jnp.concatenate([x[:, :NUM_PREFIX_TOKENS], patches], axis=1)
        return x.astype(jnp.float32)  # as PyTorch keeps what layers add to under autocast


class ASTModel(nnx.Module):
    """Patch embedding, encoder and final layer norm: everything but the classifier."""

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        config.validate()
        self.embeddings = Embeddings(config, rngs=rngs)
        self.encoder = Encoder(config, rngs=rngs)
        self.layernorm = layer_norm(config.hidden_size, config.layer_norm_eps, "float32", rngs)

    def __call__(
        self,
        input_values: jax.Array,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> ASTOutput:
        """Normalised log-mels (batch, max_length, num_mel_bins) → `ASTOutput`."""
        x, hidden_states, attentions = self.encoder(
            self.embeddings(input_values), output_hidden_states, output_attentions
        )
        x = self.layernorm(x)
        pooled = x[:, :NUM_PREFIX_TOKENS].mean(axis=1)
        return ASTOutput(x, pooled, hidden_states, attentions)

    def pooled(
        self,
        input_values: jax.Array,
        kept: jax.Array | None = None,
        training: bool = False,
        remat: bool = False,
    ) -> jax.Array:
        """The `pooler_output` (batch, hidden), without what it does not need.

        Args:
            input_values: (batch, max_length, num_mel_bins).
            kept: patches of each clip to go by, int (batch, some), from 0, or None for all.
            training: whether gradients will be taken, see `Encoder.of_first`, as is `remat`.
            remat: whether training keeps of each layer its input alone.
        """
        x = self.embeddings(input_values, kept)
        x = self.encoder.of_first(x, NUM_PREFIX_TOKENS, training, remat)
        return self.layernorm(x).mean(axis=1)


class Classifier(nnx.Module):
    """Layer norm and linear, in float32 whatever the encoder computes in."""

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        init = torch_uniform(fan_in=width)
        self.layernorm = layer_norm(width, config.head_layer_norm_eps, "float32", rngs)
        self.dense = nnx.Linear(
            width, config.num_labels, kernel_init=init, bias_init=init, rngs=rngs
        )

    def __call__(self, pooled: jax.Array) -> jax.Array:
        """(batch, hidden) → logits (batch, num_labels)."""
        return self.dense(self.layernorm(pooled))


class ASTForAudioClassification(nnx.Module):
    """AST with its classification head: log-mels in, logits out.

    Example:
        >>> model = ASTForAudioClassification(ASTConfig.from_size("tiny224"), rngs=nnx.Rngs(0))
        >>> logits = model(jnp.zeros((1, 1024, 128)))  # (1, 527)
    """

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.ast = ASTModel(config, rngs=rngs)
        self.classifier = Classifier(config, rngs=rngs)

    def __call__(
        self,
        input_values: jax.Array,
        kept: jax.Array | None = None,
        training: bool = False,
        remat: bool = False,
    ) -> jax.Array:
        """(batch, max_length, num_mel_bins) → float32 logits (batch, num_labels).

        `kept`, `training` and `remat` are as for `ASTModel.pooled`.
        """
        return self.classifier(self.ast.pooled(input_values, kept, training, remat))

    @classmethod
    def from_pretrained(cls, path: str | Path, **changes: Any) -> Self:
        """Loads a checkpoint: ours, a Hugging Face folder, a `.safetensors` or an original `.pth`.

        Args:
            path: the folder or file.
            **changes: fields of `ASTConfig` to change. A new input size or stride adapts the
                positional embedding as the original does; a new `num_labels` makes a new head.

        Raises:
            InputError: the checkpoint cannot be used; the message names the file or tensor.
        """
        # Imported here because loading builds on the models, not the other way round.
        from ast_jax.checkpoint.load import read_checkpoint

        checkpoint = read_checkpoint(path, **changes)
        return cls.from_params(checkpoint.config, checkpoint.params)

    @classmethod
    def from_params(cls, config: ASTConfig, params: dict[str, Any]) -> Self:
        """The model of a configuration with the given nested dict of parameters.

        NumPy arrays are put on the device here, once and not at every call; where `config.dtype`
        is int8 they are rounded here as well.
        """
        return nnx.merge(graphdef(config), computing_params(config, params))


def graphdef(config: ASTConfig) -> nnx.GraphDef:
    """The model without its parameters: `nnx.merge(graphdef(config), params)` is the model.

    Where `config.dtype` is int8 they are those of `computing_params`.
    """
    return nnx.split(_abstract(config))[0]


def computing_params(config: ASTConfig, params: dict[str, Any]) -> dict[str, Any]:
    """Float32 parameters, of NumPy or JAX, as the model of a configuration computes with them."""
    params = jax.tree.map(jnp.asarray, params)
    return jax.jit(quantized)(params) if config.dtype == "int8" else params


def init_params(config: ASTConfig, seed: int = 0) -> dict[str, Any]:
    """Random parameters as the original initialises them: a nested dict of float32 arrays."""
    config = dataclasses.replace(config, dtype="float32")

    @jax.jit
    def init() -> dict[str, Any]:
        model = ASTForAudioClassification(config, rngs=nnx.Rngs(seed))
        return nnx.to_pure_dict(nnx.split(model)[1])

    return init()


def param_shapes(config: ASTConfig) -> dict[str, Any]:
    """The parameters' shapes and dtypes, without the arrays."""
    # On the names of classes and on what is computed in they do not depend.
    fields = dataclasses.astuple(dataclasses.replace(config, id2label=None, dtype="float32"))
    return jax.tree.map(lambda shape: shape, _param_shapes(fields))  # a dict of the caller's own


@functools.lru_cache
def _param_shapes(fields: tuple) -> dict[str, Any]:
    return nnx.to_pure_dict(nnx.split(_abstract(ASTConfig(*fields)))[1])


def _abstract(config: ASTConfig) -> ASTForAudioClassification:
    return nnx.eval_shape(lambda: ASTForAudioClassification(config, rngs=nnx.Rngs(0)))
