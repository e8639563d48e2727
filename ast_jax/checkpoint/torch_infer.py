"""Infers a configuration from the shapes of a checkpoint's tensors."""

import math
import re
from typing import Any

from ast_jax.checkpoint.torch_names import CheckpointFormat, Tensors, tensor_name
from ast_jax.errors import InputError
from ast_jax.labels import label_fields
from ast_jax.models.config import (
    GEOMETRY,
    HUGGINGFACE_LAYER_NORM_EPS,
    NUM_PREFIX_TOKENS,
    ASTConfig,
)

HEAD_WIDTH = 64  # of every DeiT, hence of every AST

# A file records only the number of patches. Without flags the input must be one of these: equal
# strides, 128 mel bins and a power-of-two number of frames.
STRIDES = range(10, 17)
LENGTHS = (128, 256, 512, 1024)
MEL_BINS = 128


def infer_config(
    tensors: Tensors, checkpoint_format: CheckpointFormat, known: dict[str, int], source: str
) -> ASTConfig:
    """Infers the configuration of an AST's tensors.

    Args:
        tensors: the tensors, named as in `torch_names.TABLE`.
        checkpoint_format: the format of their names.
        known: fields that the caller knows, of GEOMETRY or `num_attention_heads`.
        source: the file, for messages.

    Raises:
        InputError: a required tensor is missing or has a wrong number of dimensions, or the
            number of patches matches no input or several; then the message lists the flags.
    """
    fields = infer_encoder(tensors, checkpoint_format, source, known.get("num_attention_heads"))
    positions = _shape(tensors, checkpoint_format, "ast/embeddings/position_embeddings", 3, source)
    geometry = {name: value for name, value in known.items() if name in GEOMETRY}
    num_patches = positions[1] - NUM_PREFIX_TOKENS
    fields |= _infer_geometry(num_patches, fields["patch_size"], geometry, source)
    if checkpoint_format == "huggingface":
        fields["layer_norm_eps"] = fields["head_layer_norm_eps"] = HUGGINGFACE_LAYER_NORM_EPS
    if tensor_name("classifier/dense/kernel", checkpoint_format) in tensors:
        head = _shape(tensors, checkpoint_format, "classifier/dense/kernel", 2, source)
        fields |= label_fields(head[0])
    return make_config(fields, source)


def infer_encoder(
    tensors: Tensors, checkpoint_format: CheckpointFormat, source: str, heads: int | None = None
) -> dict[str, Any]:
    """Infers the fields of `ASTConfig` for the encoder's width, depth and patch size."""
    width = _shape(tensors, checkpoint_format, "ast/embeddings/cls_token", 3, source)[2]
    kernel = _shape(tensors, checkpoint_format, "ast/embeddings/patch_projection/kernel", 4, source)
    mlp = _shape(tensors, checkpoint_format, "ast/encoder/layers/mlp/fc1/kernel", 2, source)
    # Count a layer if any of its tensors is there; missing tensors are reported by name later.
    norm = tensor_name("ast/encoder/layers/layernorm_before/scale", checkpoint_format)
    layer = re.compile(re.escape(norm.split("{i}")[0]) + r"(\d+)\.")
    layers = {match[1] for match in map(layer.match, tensors) if match}
    qkv_bias = tensor_name("ast/encoder/layers/attention/qkv/bias", checkpoint_format)
    if heads is None and width % HEAD_WIDTH:
        raise InputError(
            f"{source}: the width {width} is not a multiple of {HEAD_WIDTH}, so the number of "
            f"attention heads is unknown; give a folder with its config.json, or pass "
            f"--num-attention-heads to ast-jax convert"
        )
    return {
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": heads or width // HEAD_WIDTH,
        "intermediate_size": mlp[0],
        "patch_size": kernel[2],
        "qkv_bias": qkv_bias.replace("{i}", "0").replace("{qkv}", "query") in tensors,
    }


def square_grid(
    tensors: Tensors, checkpoint_format: CheckpointFormat, width: int, source: str
) -> tuple[int, int]:
    """Returns the patch grid of an ImageNet checkpoint, which is square."""
    flax_name = "ast/embeddings/position_embeddings"
    shape = _shape(tensors, checkpoint_format, flax_name, 3, source)
    side = math.isqrt(max(0, shape[1] - NUM_PREFIX_TOKENS))
    if side == 0 or shape != (1, NUM_PREFIX_TOKENS + side * side, width):
        raise InputError(
            f"{source}: tensor {tensor_name(flax_name, checkpoint_format)} has shape {shape}, not "
            f"(1, {NUM_PREFIX_TOKENS} + a square number, {width}); give a distilled DeiT's file"
        )
    return side, side


def make_config(fields: dict[str, Any], source: str) -> ASTConfig:
    """Returns the configuration with these fields; an `InputError` names `source`."""
    try:
        return ASTConfig().replace(**fields)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _infer_geometry(
    patches: int, patch_size: int, known: dict[str, int], source: str
) -> dict[str, int]:
    """Returns the only geometry with that number of patches that agrees with `known`."""
    # One known stride is taken for both.
    known_strides = [known[name] for name in ("frequency_stride", "time_stride") if name in known]
    if known_strides:
        strides = [(known_strides[0], known_strides[-1])]
    else:
        strides = [(stride, stride) for stride in STRIDES]
    lengths = (known["max_length"],) if "max_length" in known else LENGTHS
    candidates = [
        (*stride, length, known.get("num_mel_bins", MEL_BINS))
        for stride in strides
        for length in lengths
    ]
    matching = []
    for candidate in candidates:
        fields = dict(zip(GEOMETRY, candidate, strict=True))
        frequency, time = make_config(fields | {"patch_size": patch_size}, source).grid
        if frequency * time == patches:
            matching.append(fields)
    if len(matching) == 1:
        return matching[0]
    given = " and ".join(f"{name} {value}" for name, value in known.items())
    examples = " or ".join(
        f"strides {f['frequency_stride']} and {f['time_stride']} over {f['max_length']} frames"
        for f in matching
    )
    raise InputError(
        f"{source}: {patches} patches match "
        + (f"several inputs ({examples})" if matching else "no common input")
        + (f" with {given}" if given else "")
        + "; pass --frequency-stride, --time-stride, --max-length or --num-mel-bins to "
        "ast-jax convert"
    )


def _shape(
    tensors: Tensors, checkpoint_format: CheckpointFormat, flax_name: str, ndim: int, source: str
) -> tuple[int, ...]:
    """Returns the shape of a tensor (of layer 0), checked for its number of dimensions."""
    name = tensor_name(flax_name, checkpoint_format).replace("{i}", "0")
    if name not in tensors:
        raise InputError(f"{source}: tensor {name} is missing; give a complete checkpoint")
    shape = tensors[name].shape
    if len(shape) != ndim or 0 in shape:
        raise InputError(
            f"{source}: tensor {name} has shape {shape}, not {ndim} dimensions of at least 1; give "
            f"a complete checkpoint"
        )
    return shape
