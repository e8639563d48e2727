"""What a checkpoint's tensors say about its configuration."""

import math
import re
from typing import Any

from ast_jax.checkpoint.torch_names import CheckpointFormat, Tensors, tensor_name
from ast_jax.errors import InputError
from ast_jax.labels import BY_NUM_LABELS, id2label
from ast_jax.models.config import GEOMETRY, HUGGINGFACE_LAYER_NORM_EPS, ASTConfig

HEAD_WIDTH = 64  # of every DeiT, hence of every AST

# A file tells the number of its patches only. These are the inputs that files are read as
# without further word: equal strides, 128 mel bins and a power of two frames.
STRIDES = range(10, 17)
LENGTHS = (128, 256, 512, 1024)
MEL_BINS = 128


def infer_config(
    tensors: Tensors, layout: CheckpointFormat, geometry: dict[str, int], source: str
) -> ASTConfig:
    """The configuration of an AST's tensors; `geometry` holds what the caller knows.

    That may be fields of GEOMETRY, and `num_attention_heads`.

    Raises:
        InputError: a tensor it takes is missing or oddly shaped, or the number of patches fits
            no input or several, and the message says which fields to give.
    """
    fields = infer_encoder(tensors, layout, source, geometry.get("num_attention_heads"))
    known = {name: value for name, value in geometry.items() if name in GEOMETRY}
    patches = _shape(tensors, layout, "ast/embeddings/position_embeddings", 3, source)[1] - 2
    fields |= _infer_geometry(patches, fields["patch_size"], known, source)
    if layout == "huggingface":
        fields["layer_norm_eps"] = fields["head_layer_norm_eps"] = HUGGINGFACE_LAYER_NORM_EPS
    if tensor_name("classifier/dense/kernel", layout) in tensors:
        num_labels = _shape(tensors, layout, "classifier/dense/kernel", 2, source)[0]
        fields |= label_fields(num_labels)
    return configured(fields, source)


def infer_encoder(
    tensors: Tensors, layout: CheckpointFormat, source: str, heads: int | None = None
) -> dict[str, Any]:
    """The fields of `ASTConfig` that are the encoder's width, depth and patch size."""
    width = _shape(tensors, layout, "ast/embeddings/cls_token", 3, source)[2]
    kernel = _shape(tensors, layout, "ast/embeddings/patch_projection/kernel", 4, source)
    mlp = _shape(tensors, layout, "ast/encoder/layers/mlp/fc1/kernel", 2, source)
    # Any tensor of a layer counts it, so that one which lacks others is seen to lack them.
    prefix = tensor_name("ast/encoder/layers/layernorm_before/scale", layout).split("{i}")[0]
    layer = re.compile(re.escape(prefix) + r"(\d+)\.")
    layers = {match[1] for match in map(layer.match, tensors) if match}
    qkv_bias = tensor_name("ast/encoder/layers/attention/qkv/bias", layout)
    if heads is None and width % HEAD_WIDTH:
        raise InputError(
            f"{source}: its width {width} is no multiple of {HEAD_WIDTH}, so the number of "
            f"attention heads is unknown; give a folder with its config.json, or the number to "
            f"convert_torch_weights.py as --num-attention-heads"
        )
    return {
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": heads or width // HEAD_WIDTH,
        "intermediate_size": mlp[0],
        "patch_size": kernel[2],
        "qkv_bias": qkv_bias.replace("{i}", "0").replace("{qkv}", "query") in tensors,
    }


def label_fields(num_labels: int) -> dict[str, Any]:
    """Labels and problem type of the benchmark with that many classes, where there is one."""
    fields: dict[str, Any] = {
        "num_labels": num_labels,
        "problem_type": "single_label_classification",
    }
    if benchmark := BY_NUM_LABELS.get(num_labels):
        fields["id2label"] = id2label(benchmark.class_list)
        fields["problem_type"] = benchmark.problem_type
    return fields


def square_grid(
    tensors: Tensors, layout: CheckpointFormat, width: int, source: str
) -> tuple[int, int]:
    """The grid of an ImageNet checkpoint's positional embedding, whose images are square."""
    ours = "ast/embeddings/position_embeddings"
    shape = _shape(tensors, layout, ours, 3, source)
    side = math.isqrt(max(0, shape[1] - 2))
    if side == 0 or shape != (1, 2 + side * side, width):
        raise InputError(
            f"{source}: tensor {tensor_name(ours, layout)} has shape {shape}, not (1, 2 + a "
            f"square number, {width}); give a distilled DeiT's file"
        )
    return side, side


def configured(fields: dict[str, Any], source: str) -> ASTConfig:
    """The configuration with these fields; `InputError` names `source` if there is none."""
    try:
        return ASTConfig().replace(**fields)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _infer_geometry(
    patches: int, patch_size: int, known: dict[str, int], source: str
) -> dict[str, int]:
    """The one geometry that agrees with `known` and has that many patches."""
    # Strides are equal unless the caller says otherwise.
    told = [known[name] for name in ("frequency_stride", "time_stride") if name in known]
    strides = [(told[0], told[-1])] if told else [(stride, stride) for stride in STRIDES]
    lengths = (known["max_length"],) if "max_length" in known else LENGTHS
    candidates = [
        (*stride, length, known.get("num_mel_bins", MEL_BINS))
        for stride in strides
        for length in lengths
    ]
    fitting = []
    for candidate in candidates:
        fields = dict(zip(GEOMETRY, candidate, strict=True))
        frequency, time = configured(fields | {"patch_size": patch_size}, source).grid
        if frequency * time == patches:
            fitting.append(fields)
    if len(fitting) == 1:
        return fitting[0]
    given = " and ".join(f"{name} {value}" for name, value in known.items())
    examples = " or ".join(
        f"strides {f['frequency_stride']} and {f['time_stride']} over {f['max_length']} frames"
        for f in fitting
    )
    raise InputError(
        f"{source}: its {patches} patches fit "
        + (f"several inputs ({examples})" if fitting else "no usual input")
        + (f" with {given}" if given else "")
        + "; say which it is with --frequency-stride, --time-stride, --max-length and "
        "--num-mel-bins of convert_torch_weights.py"
    )


def _shape(
    tensors: Tensors, layout: CheckpointFormat, ours: str, ndim: int, source: str
) -> tuple[int, ...]:
    name = tensor_name(ours, layout).replace("{i}", "0")
    if name not in tensors:
        raise InputError(f"{source}: tensor {name} is missing; give a whole checkpoint")
    shape = tensors[name].shape
    if len(shape) != ndim or 0 in shape:
        raise InputError(
            f"{source}: tensor {name} has shape {shape}, which has not {ndim} dimensions of one "
            f"or more; give a whole checkpoint"
        )
    return shape
