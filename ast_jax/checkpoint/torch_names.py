"""The one table of names: our parameters, the original's tensors, Hugging Face's tensors.

DeiT's own files have the original's names without the leading `v.`.

Read in either direction by `params_from_tensors` and `tensors_from_params`, so that what one
reads the other writes.
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
    """How a PyTorch tensor becomes a Flax array, and back."""

    to_flax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


COPY = Transform(lambda x: x, lambda x: x)
LINEAR = Transform(lambda x: x.T, lambda x: x.T)  # (out, in) ↔ (in, out)
CONV = Transform(  # (out, in, height, width) ↔ (height, width, in, out)
    lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)

# Ours, below ast/ or classifier/ │ the original │ Hugging Face's files │ transform.
# {i} is the layer: our arrays stack it on a leading axis. {qkv} stands for query, key and
# value, which Hugging Face keeps apart and the others have in one tensor.
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

# DeiT's two ImageNet heads, which the original carries along and never uses.
IGNORED = ("v.head.weight", "v.head.bias", "v.head_dist.weight", "v.head_dist.bias")


def tensor_name(ours: str, layout: CheckpointFormat) -> str:
    """What a parameter of ours is called in files of a layout, with {i} and {qkv} in it."""
    row = next(row for row in TABLE if row[0] == ours)
    if layout == "huggingface":
        return row[2]
    return row[1].removeprefix("v.") if layout == "deit" else row[1]


def params_from_tensors(
    tensors: Tensors, layout: CheckpointFormat, config: ASTConfig, source: str
) -> tuple[dict[str, Any], list[str]]:
    """Turns a checkpoint's tensors into the nested dict of parameters of `config`.

    A classification head that the checkpoint lacks is left out of the result; anything else
    that is missing is an error.

    Returns:
        The parameters, float32, and the names of tensors that were ignored.

    Raises:
        InputError: a tensor is missing, unknown, of another shape, or not finite numbers.
    """
    wanted = traverse_util.flatten_dict(param_shapes(config), sep="/")
    has_head = _has_head(tensors, layout)
    params: dict[str, np.ndarray] = {}
    unused = dict.fromkeys(tensors)
    for ours, _, _, transform in TABLE:
        if ours not in wanted or (ours.startswith("classifier/") and not has_head):
            continue  # a model without qkv_bias, or without a head
        name, shape = tensor_name(ours, layout), wanted[ours].shape
        if "{i}" in name:
            layers = range(config.num_hidden_layers)
            arrays = [_take(tensors, _parts(name, i), transform, shape[1:], source) for i in layers]
            params[ours] = np.stack(arrays)
        else:
            layers = range(1)
            array = _take(tensors, [name], transform, shape, source)
            params[ours] = np.ascontiguousarray(array)
        for part in (part for i in layers for part in _parts(name, i)):
            unused.pop(part)
    ignorable = [n.removeprefix("v.") for n in IGNORED] if layout == "deit" else IGNORED
    ignored = [name for name in unused if layout != "huggingface" and name in ignorable]
    unknown = sorted(name for name in unused if name not in ignored)
    if unknown:
        raise InputError(
            f"{source}: tensor {unknown[0]} has no place in the model"
            + (f", nor have {len(unknown) - 1} others" if len(unknown) > 1 else "")
            + "; remove it from the file if it is not needed"
        )
    return traverse_util.unflatten_dict(params, sep="/"), ignored


def tensors_from_params(params: dict[str, Any], layout: CheckpointFormat) -> Tensors:
    """The parameters as the tensors of the original's or Hugging Face's checkpoint files."""
    flat = traverse_util.flatten_dict(params, sep="/")
    tensors = {}
    for ours, _, _, transform in TABLE:
        if ours not in flat:
            continue
        name, array = tensor_name(ours, layout), np.asarray(flat[ours])
        for layer in range(len(array) if "{i}" in name else 1):
            tensor = transform.to_torch(array[layer] if "{i}" in name else array)
            names = _parts(name, layer)
            for part, value in zip(names, np.split(tensor, len(names)), strict=True):
                tensors[part] = np.ascontiguousarray(value)
    return tensors


def finite_float32(tensors: Tensors, name: str, source: str) -> np.ndarray:
    """A tensor as float32; half precisions fit exactly.

    Raises:
        InputError: the tensor is missing, or holds anything but finite numbers.
    """
    if name not in tensors:
        raise InputError(f"{source}: tensor {name} is missing; give a whole checkpoint")
    with np.errstate(over="ignore"):  # a float64 too large becomes an infinity, caught below
        array = tensors[name].astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(
            f"{source}: tensor {name} holds NaN or infinite values; give another checkpoint"
        )
    return array


def _has_head(tensors: Tensors, layout: CheckpointFormat) -> bool:
    if layout == "deit":
        return False  # its heads are for ImageNet's classes
    prefix = "classifier." if layout == "huggingface" else "mlp_head."
    return any(name.startswith(prefix) for name in tensors)


def _parts(name: str, layer: int) -> list[str]:
    names = [name.replace("{i}", str(layer))]
    if "{qkv}" in name:
        names = [names[0].replace("{qkv}", part) for part in ("query", "key", "value")]
    return names


def _take(
    tensors: Tensors, names: list[str], transform: Transform, shape: tuple[int, ...], source: str
) -> np.ndarray:
    """One parameter of ours, of the given shape, from the tensors that make it up."""
    whole = transform.to_torch(np.broadcast_to(np.float32(0), shape)).shape
    expected = (whole[0] // len(names), *whole[1:])
    arrays = [finite_float32(tensors, name, source) for name in names]
    for name, array in zip(names, arrays, strict=True):
        if array.shape != expected:
            raise InputError(
                f"{source}: tensor {name} has shape {array.shape}, and a model of this "
                f"configuration takes {expected}; correct the configuration or the tensor"
            )
    return transform.to_flax(np.concatenate(arrays))
