"""The table of tensor names: Flax parameters, the original's tensors, Hugging Face's tensors.

DeiT's own files have the original's names without the leading `v.`.

`params_from_tensors` and `tensors_from_params` both use the table, so that each reverses the
other.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from flax import traverse_util

from ast_jax.errors import InputError
from ast_jax.models.ast import param_shapes
from ast_jax.models.config import ASTConfig

CheckpointFormat = Literal["original", "huggingface", "deit"]
Tensors = dict[str, np.ndarray]


class Transform(NamedTuple):
    """Converts a PyTorch tensor to a Flax array, and back."""

    to_flax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


COPY = Transform(lambda x: x, lambda x: x)
LINEAR = Transform(lambda x: x.T, lambda x: x.T)  # (out, in) ↔ (in, out)
CONV = Transform(  # (out, in, height, width) ↔ (height, width, in, out)
    lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)

# Flax │ the original │ Hugging Face │ transform.
# {i} is the layer; Flax stacks the layers on a leading axis. {qkv} is query, key and value: three
# tensors in Hugging Face's files, one elsewhere.
HUGGINGFACE_PREFIX = _HF = "audio_spectrogram_transformer"
_HF_LAYER = f"{_HF}.encoder.layer.{{i}}"
_HF_QKV = f"{_HF_LAYER}.attention.attention.{{qkv}}"
TABLE: tuple[tuple[str, str, str, Transform], ...] = (
    ("ast/embeddings/cls_token", "v.cls_token", f"{_HF}.embeddings.cls_token", COPY),
    ("ast/embeddings/distillation_token", "v.dist_token", f"{_HF}.embeddings.distillation_token", COPY),
    ("ast/embeddings/position_embeddings", "v.pos_embed", f"{_HF}.embeddings.position_embeddings", COPY),
    ("ast/embeddings/patch_projection/kernel", "v.patch_embed.proj.weight", f"{_HF}.embeddings.patch_embeddings.projection.weight", CONV),
    ("ast/embeddings/patch_projection/bias", "v.patch_embed.proj.bias", f"{_HF}.embeddings.patch_embeddings.projection.bias", COPY),
    ("ast/encoder/layers/layernorm_before/scale", "v.blocks.{i}.norm1.weight", f"{_HF_LAYER}.layernorm_before.weight", COPY),
    ("ast/encoder/layers/layernorm_before/bias", "v.blocks.{i}.norm1.bias", f"{_HF_LAYER}.layernorm_before.bias", COPY),
    ("ast/encoder/layers/attention/qkv/kernel", "v.blocks.{i}.attn.qkv.weight", f"{_HF_QKV}.weight", LINEAR),
    ("ast/encoder/layers/attention/qkv/bias", "v.blocks.{i}.attn.qkv.bias", f"{_HF_QKV}.bias", COPY),
    ("ast/encoder/layers/attention/output/kernel", "v.blocks.{i}.attn.proj.weight", f"{_HF_LAYER}.attention.output.dense.weight", LINEAR),
    ("ast/encoder/layers/attention/output/bias", "v.blocks.{i}.attn.proj.bias", f"{_HF_LAYER}.attention.output.dense.bias", COPY),
    ("ast/encoder/layers/layernorm_after/scale", "v.blocks.{i}.norm2.weight", f"{_HF_LAYER}.layernorm_after.weight", COPY),
    ("ast/encoder/layers/layernorm_after/bias", "v.blocks.{i}.norm2.bias", f"{_HF_LAYER}.layernorm_after.bias", COPY),
    ("ast/encoder/layers/mlp/fc1/kernel", "v.blocks.{i}.mlp.fc1.weight", f"{_HF_LAYER}.intermediate.dense.weight", LINEAR),
    ("ast/encoder/layers/mlp/fc1/bias", "v.blocks.{i}.mlp.fc1.bias", f"{_HF_LAYER}.intermediate.dense.bias", COPY),
    ("ast/encoder/layers/mlp/fc2/kernel", "v.blocks.{i}.mlp.fc2.weight", f"{_HF_LAYER}.output.dense.weight", LINEAR),
    ("ast/encoder/layers/mlp/fc2/bias", "v.blocks.{i}.mlp.fc2.bias", f"{_HF_LAYER}.output.dense.bias", COPY),
    ("ast/layernorm/scale", "v.norm.weight", f"{_HF}.layernorm.weight", COPY),
    ("ast/layernorm/bias", "v.norm.bias", f"{_HF}.layernorm.bias", COPY),
    ("classifier/layernorm/scale", "mlp_head.0.weight", "classifier.layernorm.weight", COPY),
    ("classifier/layernorm/bias", "mlp_head.0.bias", "classifier.layernorm.bias", COPY),
    ("classifier/dense/kernel", "mlp_head.1.weight", "classifier.dense.weight", LINEAR),
    ("classifier/dense/bias", "mlp_head.1.bias", "classifier.dense.bias", COPY),
)  # fmt: skip

# DeiT's two ImageNet heads, which the original keeps and never uses.
IGNORED = ("v.head.weight", "v.head.bias", "v.head_dist.weight", "v.head_dist.bias")


def tensor_name(flax_name: str, checkpoint_format: CheckpointFormat) -> str:
    """Returns a parameter's tensor name, with placeholders {i} and {qkv}."""
    row = next(row for row in TABLE if row[0] == flax_name)
    if checkpoint_format == "huggingface":
        return row[2]
    return row[1].removeprefix("v.") if checkpoint_format == "deit" else row[1]


def params_from_tensors(
    tensors: Tensors, checkpoint_format: CheckpointFormat, config: ASTConfig, source: str
) -> tuple[dict[str, Any], list[str]]:
    """Converts a checkpoint's tensors to the nested dict of parameters of `config`.

    Returns no classifier if the checkpoint has none; any other missing tensor is an error.

    Returns:
        The float32 parameters, and the names of ignored tensors.

    Raises:
        InputError: a tensor is missing, unknown, of another shape, or not finite numbers.
    """
    expected = traverse_util.flatten_dict(param_shapes(config), sep="/")
    has_head = _has_head(tensors, checkpoint_format)
    params: dict[str, np.ndarray] = {}
    unused = dict.fromkeys(tensors)
    for flax_name, _, _, transform in TABLE:
        if flax_name not in expected or (flax_name.startswith("classifier/") and not has_head):
            continue  # a model without qkv_bias, or without a head
        name, shape = tensor_name(flax_name, checkpoint_format), expected[flax_name].shape
        stacked = "{i}" in name
        arrays = []
        for layer in range(config.num_hidden_layers if stacked else 1):
            names = _tensor_names(name, layer)
            layer_shape = shape[1:] if stacked else shape
            arrays.append(_convert(tensors, names, transform, layer_shape, source))
            for tensor in names:
                unused.pop(tensor)
        params[flax_name] = np.stack(arrays) if stacked else np.ascontiguousarray(arrays[0])
    ignorable = [n.removeprefix("v.") for n in IGNORED] if checkpoint_format == "deit" else IGNORED
    ignored = [n for n in unused if checkpoint_format != "huggingface" and n in ignorable]
    unknown = sorted(name for name in unused if name not in ignored)
    if unknown:
        raise InputError(
            f"{source}: tensor {unknown[0]} has no place in the model"
            + (f", nor have {len(unknown) - 1} others" if len(unknown) > 1 else "")
            + "; remove it from the file if it is not needed"
        )
    return traverse_util.unflatten_dict(params, sep="/"), ignored


def tensors_from_params(params: dict[str, Any], checkpoint_format: CheckpointFormat) -> Tensors:
    """Converts parameters to the tensors of a checkpoint file."""
    flat = traverse_util.flatten_dict(params, sep="/")
    tensors = {}
    for flax_name, _, _, transform in TABLE:
        if flax_name not in flat:
            continue
        name, array = tensor_name(flax_name, checkpoint_format), np.asarray(flat[flax_name])
        for layer in range(len(array) if "{i}" in name else 1):
            tensor = transform.to_torch(array[layer] if "{i}" in name else array)
            names = _tensor_names(name, layer)
            for part_name, part in zip(names, np.split(tensor, len(names)), strict=True):
                tensors[part_name] = np.ascontiguousarray(part)
    return tensors


def finite_float32(tensors: Tensors, name: str, source: str) -> np.ndarray:
    """Returns a tensor as float32, which holds half precisions exactly.

    Raises:
        InputError: the tensor is missing, or holds NaN or infinite values.
    """
    if name not in tensors:
        raise InputError(f"{source}: tensor {name} is missing; give a complete checkpoint")
    with np.errstate(over="ignore"):  # a float64 out of range becomes infinite, see below
        array = tensors[name].astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(
            f"{source}: tensor {name} holds NaN or infinite values; give another checkpoint"
        )
    return array


def _has_head(tensors: Tensors, checkpoint_format: CheckpointFormat) -> bool:
    if checkpoint_format == "deit":
        return False  # its heads are for ImageNet's classes
    prefix = "classifier." if checkpoint_format == "huggingface" else "mlp_head."
    return any(name.startswith(prefix) for name in tensors)


def _tensor_names(name: str, layer: int) -> list[str]:
    """Fills in the placeholders of a name from the table."""
    name = name.replace("{i}", str(layer))
    if "{qkv}" not in name:
        return [name]
    return [name.replace("{qkv}", part) for part in ("query", "key", "value")]


def _convert(
    tensors: Tensors, names: list[str], transform: Transform, shape: tuple[int, ...], source: str
) -> np.ndarray:
    """Converts the named tensors to one Flax array of `shape`."""
    torch_shape = transform.to_torch(np.broadcast_to(np.float32(0), shape)).shape
    expected = (torch_shape[0] // len(names), *torch_shape[1:])
    arrays = [finite_float32(tensors, name, source) for name in names]
    for name, array in zip(names, arrays, strict=True):
        if array.shape != expected:
            raise InputError(
                f"{source}: tensor {name} has shape {array.shape}, and the configuration requires "
                f"{expected}; correct the configuration or the tensor"
            )
    return transform.to_flax(np.concatenate(arrays))
