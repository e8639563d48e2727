"""The Audio Spectrogram Transformer (Gong, Chung, Glass; Interspeech 2021).

Section 2 of the paper, in order: overlapping patches become tokens with positions (`Embeddings`),
a ViT encoder of pre-norm layers (`Encoder`), both in encoder.py, and a linear head on the mean of
the class and the distillation token (`ASTForAudioClassification`), in head.py.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ast_jax.errors import InputError
from ast_jax.models.attention import check_attn_implementation, resolve_attn_implementation
from ast_jax.models.config import NUM_PREFIX_TOKENS, ASTConfig
from ast_jax.models.encoder import Embeddings, Encoder, InputValues, KeepIndices, NumFrames
from ast_jax.models.head import Classifier
from ast_jax.models.layers import LayerNorm
from ast_jax.models.padding import frequency_major

Params = dict[str, Any]  # nested, of arrays


class ASTOutput(NamedTuple):
    """The result of `ASTModel`; names and order as Hugging Face's.

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


class ASTModel(nnx.Module):
    """Embeddings, encoder and final layer norm: everything but the classifier.

    Arguments are those of `ASTForAudioClassification`.
    """

    def __init__(
        self, config: ASTConfig, *, rngs: nnx.Rngs, attn_implementation: str | None = None
    ):
        config.validate()
        if attn_implementation is None:
            attn_implementation = resolve_attn_implementation(config, _devices({}))
        check_attn_implementation(config, attn_implementation)
        self.config = config
        self.embeddings = Embeddings(config, rngs=rngs)
        self.encoder = Encoder(config, attn_implementation, rngs=rngs)
        self.layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps, "float32", rngs=rngs)

    def __call__(
        self,
        input_values: InputValues,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        *,
        num_frames: NumFrames | None = None,
    ) -> ASTOutput:
        """Returns the tokens, and on request what each layer computes.

        With `num_frames`, see `pooled`, tokens of padding are there and have no meaning.
        """
        x, num_tokens = self.embeddings.encoder_input(input_values, num_frames=num_frames)
        hidden_states = attentions = None
        if output_hidden_states or output_attentions:
            hidden_states, attentions = self.encoder.intermediates(x, output_attentions, num_tokens)
            x = hidden_states[-1]
        else:
            x = self.encoder(x, num_tokens=num_tokens)
        if num_frames is not None:
            rows = self.config.grid[0]
            grid = rows, (x.shape[1] - NUM_PREFIX_TOKENS) // rows
            x = frequency_major(x, grid)
            if hidden_states is not None:
                hidden_states = frequency_major(hidden_states, grid, axis=2)
            if attentions is not None:
                attentions = frequency_major(attentions, grid, axis=3)
                attentions = frequency_major(attentions, grid, axis=4)
        x = self.layernorm(x)
        pooled = x[:, :NUM_PREFIX_TOKENS].mean(axis=1)
        return ASTOutput(x, pooled, hidden_states if output_hidden_states else None, attentions)

    def pooled(
        self,
        input_values: InputValues,
        keep_indices: KeepIndices | None = None,
        remat: str = "none",
        map_layer_params: Callable[[Any], Any] = lambda params: params,
        unroll: bool = False,
        num_frames: NumFrames | None = None,
    ) -> Float[Array, "batch hidden"]:
        """Computes `pooler_output` alone, for which the last layer need not compute the patches.

        Args:
            input_values: normalized log-mels; with `num_frames` any number of frames up to
                `max_length`.
            keep_indices: the patches of each clip to use, counted from 0; None for all.
            remat: what the backward pass recomputes, see `rematerialize`.
            map_layer_params: applied to one layer's parameters where the layer uses them.
            unroll: whether to unroll the loop over layers where gradients are taken.
            num_frames: the frames of each clip before padding. Patches of padding alone take no
                part in attention. None: they do, as in the original.
        """
        x, num_tokens = self.embeddings.encoder_input(input_values, keep_indices, num_frames)
        x = self.encoder(x, NUM_PREFIX_TOKENS, remat, map_layer_params, unroll, num_tokens)
        return self.layernorm(x).mean(axis=1)

    def columns(
        self, input_values: InputValues, **options: Any
    ) -> Float[Array, "batch columns hidden"]:
        """Computes the mean over frequency of each column of patches.

        `options` are those of `pooled`, without those that leave patches out.
        """
        x = self.encoder(self.embeddings(input_values), **options)
        patches = self.layernorm(x)[:, NUM_PREFIX_TOKENS:]  # frequency-major
        return patches.reshape(len(x), *self.config.grid, -1).mean(axis=1)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, attn_implementation: str | None = None, **changes: Any
    ) -> "ASTModel":
        """Loads a checkpoint of any kind, with or without a classifier, which is left out.

        Arguments and errors are those of `ASTForAudioClassification.from_pretrained`.
        """
        from ast_jax.checkpoint.load import read_checkpoint

        config, _, params = read_checkpoint(path, changes, headless=True)
        params = jax.tree.map(jnp.asarray, params["ast"])
        if attn_implementation is None:
            attn_implementation = resolve_attn_implementation(config, _devices(params))
        model = nnx.eval_shape(
            lambda: cls(config, rngs=nnx.Rngs(0), attn_implementation=attn_implementation)
        )
        return nnx.merge(nnx.split(model)[0], params)

    def save_pretrained(self, path: str | Path, feature_extractor: Any = None) -> None:
        """Writes a folder for `from_pretrained` and for Hugging Face's `ASTModel`.

        Arguments and errors are those of `ASTForAudioClassification.save_pretrained`.
        """
        from ast_jax.checkpoint.torch_write import save_huggingface

        params = {"ast": nnx.to_pure_dict(nnx.state(self, nnx.Param))}
        save_huggingface(path, self.config, params, feature_extractor)


class ASTForAudioClassification(nnx.Module):
    """AST with its classification head: log-mels in, logits out.

    Args:
        config: the architecture.
        rngs: for the initial weights.
        attn_implementation: "cudnn", "tpu", "cpu" or "xla", see `attention`; None for the fastest
            on JAX's default device.

    Examples:
        >>> model = ASTForAudioClassification(ASTConfig.from_size("tiny224"), rngs=nnx.Rngs(0))
        >>> logits = model(jnp.zeros((1, 1024, 128)))  # (1, 527)
    """

    def __init__(
        self, config: ASTConfig, *, rngs: nnx.Rngs, attn_implementation: str | None = None
    ):
        self.config = config
        self.ast = ASTModel(config, rngs=rngs, attn_implementation=attn_implementation)
        self.classifier = Classifier(config, rngs=rngs)

    def __call__(
        self,
        input_values: InputValues,
        keep_indices: KeepIndices | None = None,
        *,
        remat: str = "none",
        map_layer_params: Callable[[Any], Any] = lambda params: params,
        unroll: bool = False,
        num_frames: NumFrames | None = None,
    ) -> Float[Array, "batch *columns labels"]:
        """Computes float32 logits; arguments are those of `ASTModel.pooled`.

        With `config.frame_level` they are those of each column of patches.
        """
        options: dict[str, Any] = {
            "remat": remat,
            "map_layer_params": map_layer_params,
            "unroll": unroll,
        }
        if self.config.frame_level:
            if keep_indices is not None or num_frames is not None:
                raise InputError("a frame-level model takes neither keep_indices nor num_frames")
            return self.classifier(self.ast.columns(input_values, **options))
        return self.classifier(
            self.ast.pooled(input_values, keep_indices, num_frames=num_frames, **options)
        )

    @classmethod
    def from_pretrained(
        cls, path: str | Path, attn_implementation: str | None = None, **changes: Any
    ) -> "ASTForAudioClassification":
        """Loads a checkpoint: ours, a Hugging Face folder, a `.safetensors` or an original `.pth`.

        Args:
            path: the folder or file.
            attn_implementation: as for the class.
            **changes: fields of `ASTConfig` to change. A new input size or stride adapts the
                positional embedding as the original does; a new `num_labels` makes a new head.

        Raises:
            InputError: the checkpoint cannot be used; the message names the file or tensor.
        """
        # Imported here because loading builds on the models, not the other way round.
        from ast_jax.checkpoint.load import read_checkpoint

        checkpoint = read_checkpoint(path, changes)
        if checkpoint.config.frame_level:
            raise InputError(
                f"{path}: is a frame-level model; load it with ASTForAudioFrameClassification or "
                f"ast_jax.load, or give frame_level=False for an untrained clip-level head"
            )
        return cls.from_params(checkpoint.config, checkpoint.params, attn_implementation)

    @classmethod
    def from_params(
        cls, config: ASTConfig, params: Params, attn_implementation: str | None = None
    ) -> Self:
        """Returns the model of a configuration with a nested dict of parameters.

        NumPy arrays are put on the default device, once and not at every call. With
        `attn_implementation` None the fastest on the parameters' devices is used.
        """
        params = jax.tree.map(jnp.asarray, params)
        if attn_implementation is None:
            attn_implementation = resolve_attn_implementation(config, _devices(params))
        model = nnx.merge(graphdef(config, attn_implementation), params)
        model.config = model.ast.config = config  # with class names, which the graphdef lacks
        return model

    def save_pretrained(self, path: str | Path, feature_extractor: Any = None) -> None:
        """Writes a folder for `from_pretrained` and for Hugging Face's class of this name.

        It has config.json, model.safetensors in float32, and preprocessor_config.json if there is
        a feature extractor. PyTorch is not needed. In an existing folder these files are replaced,
        once all of them are written; without `feature_extractor` the last is kept.

        Args:
            path: a new folder, or one that holds no other files.
            feature_extractor: the `ASTFeatureExtractor` of the model's inputs.

        Raises:
            InputError: the folder has other files or cannot be written, or the feature extractor
                or a parameter does not match the model's configuration.
        """
        from ast_jax.checkpoint.torch_write import save_huggingface

        params = nnx.to_pure_dict(nnx.state(self, nnx.Param))
        save_huggingface(path, self.config, params, feature_extractor)


def graphdef(config: ASTConfig, attn_implementation: str | None = None) -> nnx.GraphDef:
    """Returns the model without its parameters: `nnx.merge(graphdef(config), params)` is the model.

    Arguments are those of `ASTForAudioClassification`. Class names are left out.
    """
    if attn_implementation is None:
        attn_implementation = resolve_attn_implementation(config, _devices({}))
    check_attn_implementation(config, attn_implementation)
    return _abstract(_hashable(config), attn_implementation)[0]


def param_shapes(config: ASTConfig) -> Params:
    """Returns the parameters' shapes and dtypes, without the arrays."""
    shapes = _abstract(_hashable(config), "xla")[1]
    return jax.tree.map(lambda shape: shape, shapes)  # a dict of the caller's own


def init_params(config: ASTConfig, seed: int = 0) -> Params:
    """Returns the original's random initial parameters: a nested dict of float32 arrays."""
    return _init_params(_hashable(config), jax.random.key(seed))


def round_kernels(config: ASTConfig, params: Params) -> Params:
    """Returns parameters to predict with: the encoder's kernels in the model's dtype.

    Layers round them to it at each call; here it is done once, and bfloat16 takes half the memory.
    Logits are the same.
    """

    def rounded(path: tuple, array: Any) -> Any:
        is_kernel = path[-1] == jax.tree_util.DictKey("kernel")
        if not is_kernel or array.dtype == config.dtype:
            return array
        return jnp.asarray(array).astype(config.dtype)

    layers = jax.tree.map_with_path(rounded, params["ast"]["encoder"]["layers"])
    return params | {"ast": params["ast"] | {"encoder": {"layers": layers}}}


# Tracing a model takes half a second, so that its structure and its initialization are cached.
@functools.lru_cache
def _abstract(fields: tuple, attn_implementation: str) -> tuple[nnx.GraphDef, Params]:
    model = nnx.eval_shape(lambda: _new_model(fields, jax.random.key(0), attn_implementation))
    graph, shapes = nnx.split(model)
    return graph, nnx.to_pure_dict(shapes)


@functools.partial(jax.jit, static_argnums=0)
def _init_params(fields: tuple, key: jax.Array) -> Params:
    return nnx.to_pure_dict(nnx.split(_new_model(fields, key, "xla"))[1])


def _new_model(
    fields: tuple, key: jax.Array, attn_implementation: str
) -> ASTForAudioClassification:
    return ASTForAudioClassification(
        ASTConfig(*fields), rngs=nnx.Rngs(key), attn_implementation=attn_implementation
    )


def _hashable(config: ASTConfig) -> tuple:
    """Returns the fields of a valid configuration that parameters depend on: no class names."""
    config.validate()  # here, because 16.0 and 16 are one key
    return dataclasses.astuple(dataclasses.replace(config, id2label=None))


def _devices(params: Params) -> Sequence[jax.Device]:
    """Returns the devices of parameters; while tracing, and without any, the default device."""
    arrays = [leaf for leaf in jax.tree.leaves(params) if not isinstance(leaf, jax.core.Tracer)]
    with jax.ensure_compile_time_eval():
        return list((arrays[0] if arrays else jnp.zeros(())).devices())
