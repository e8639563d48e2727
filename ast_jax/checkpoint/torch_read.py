"""From any PyTorch checkpoint to ours, with an account of what was done."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ast_jax.audio.feature_extractor import FILE_NAME, ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, check_agreement
from ast_jax.checkpoint.torch_files import read_tensors, to_file_names
from ast_jax.checkpoint.torch_infer import (
    configured,
    infer_config,
    infer_encoder,
    label_fields,
    square_grid,
)
from ast_jax.checkpoint.torch_names import Tensors, finite_float32, params_from_tensors, tensor_name
from ast_jax.errors import InputError
from ast_jax.io import read_json
from ast_jax.labels import AUDIOSET, BY_NUM_LABELS
from ast_jax.models.config import GEOMETRY, ASTConfig
from ast_jax.models.positions import resize_position_embeddings

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a Hugging Face folder
NAMED = {"original": "the original's", "huggingface": "Hugging Face's", "deit": "DeiT's"}


class Converted(NamedTuple):
    """A checkpoint read from PyTorch, and what a person should know about it.

    Attributes:
        checkpoint: ours.
        notes: what was read.
        guesses: what the file does not say and was taken as the published ones have it.
    """

    checkpoint: Checkpoint
    notes: list[str]
    guesses: list[str]


def read_torch_checkpoint(
    path: str | Path,
    source_fields: dict[str, int] | None = None,
    target_fields: dict[str, Any] | None = None,
) -> Converted:
    """Reads an original `.pth`, a Hugging Face folder, a `.safetensors`, or a DeiT checkpoint.

    Args:
        path: the file or folder.
        source_fields: strides, `max_length`, `num_mel_bins` and `num_attention_heads` of a file
            that leaves them open.
        target_fields: fields of the AST to make from an ImageNet checkpoint, which has none of
            its own; elsewhere unused.

    Raises:
        InputError: the checkpoint cannot be used; the message names the file or tensor.
    """
    path, source_fields = Path(path), dict(source_fields or {})
    folder = path.is_dir()
    file = _weights(path) if folder else path
    tensors, layout = to_file_names(read_tensors(file), str(file))
    notes = [f"{file}: {len(tensors)} tensors, named as {NAMED[layout]}"]
    guesses = []
    if layout == "deit":
        fields = source_fields | (target_fields or {})
        config = _ast_from_imagenet(tensors, fields, str(file))
        notes.append(f"inferred: {_summary(config)}")
        notes.append("an ImageNet checkpoint, the start of a training: it has no classifier")
    elif folder:
        config = _config_of_folder(path, source_fields)
        notes.append(f"config.json: {_summary(config)}")
    else:
        config = infer_config(tensors, layout, source_fields, str(file))
        guesses.append(f"inferred: {_summary(config)}")
    params, ignored = params_from_tensors(tensors, layout, config, str(file))
    notes.append(f"ignored tensors: {', '.join(ignored) or 'none'}")
    if folder and (path / FILE_NAME).exists():
        extractor = ASTFeatureExtractor.from_pretrained(path)
        check_agreement(config, extractor, str(path))
    else:
        extractor, benchmark = published_extractor(config)
        guesses.append(
            f"no {FILE_NAME}: mean {extractor.mean} and std {extractor.std}, those of {benchmark}; "
            f"--mean and --std of convert_torch_weights.py change them"
        )
    return Converted(Checkpoint(config, extractor, params), notes, guesses)


def _weights(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / name
    raise InputError(
        f"{folder}: no checkpoint, as it holds neither a checkpoint of ours nor "
        f"{' nor '.join(WEIGHTS)}; give the folder or file of one"
    )


def _config_of_folder(folder: Path, source_fields: dict[str, int]) -> ASTConfig:
    file = folder / "config.json"
    fields = read_json(file)
    if isinstance(fields, dict):
        # There it is the precision of the stored weights; ours is the encoder's, chosen anew.
        fields.pop("dtype", None)
    config = ASTConfig.from_dict(fields, source=str(file))
    for name, value in source_fields.items():
        if getattr(config, name) != value:
            raise InputError(
                f"{file}: {name} is {getattr(config, name)}, not {value}; leave "
                f"--{name.replace('_', '-')} out"
            )
    benchmark = label_fields(config.num_labels)
    # Hugging Face's files do not say that AudioSet's classes are not exclusive.
    if not fields.get("problem_type") and benchmark.get("id2label") == config.id2label:
        config = config.replace(problem_type=benchmark["problem_type"])
    return config


def _ast_from_imagenet(tensors: Tensors, fields: dict[str, Any], source: str) -> ASTConfig:
    """Makes the tensors those of an AST, in place: one channel, and positions for `fields`.

    As the original's `ASTModel.__init__`: the patch embedding is the sum over RGB.
    """
    heads = fields.get("num_attention_heads")
    config = configured(infer_encoder(tensors, "deit", source, heads) | fields, source)
    name = tensor_name("ast/embeddings/patch_projection/kernel", "deit")
    kernel = finite_float32(tensors, name, source)
    if kernel.shape[1] != 3:
        raise InputError(
            f"{source}: tensor {name} has shape {kernel.shape} and not three channels, which an "
            f"ImageNet checkpoint has; give a distilled DeiT's file"
        )
    tensors[name] = kernel.sum(axis=1, keepdims=True)
    grid = square_grid(tensors, "deit", config.hidden_size, source)
    name = tensor_name("ast/embeddings/position_embeddings", "deit")
    positions = resize_position_embeddings(finite_float32(tensors, name, source), grid, config.grid)
    tensors[name] = np.asarray(positions)
    return config


def published_extractor(config: ASTConfig) -> tuple[ASTFeatureExtractor, str]:
    """What a file without preprocessor_config.json was likely trained with, and its benchmark."""
    benchmark = BY_NUM_LABELS.get(config.num_labels, AUDIOSET)
    extractor = ASTFeatureExtractor(
        num_mel_bins=config.num_mel_bins,
        max_length=config.max_length,
        mean=benchmark.mean,
        std=benchmark.std,
    )
    return extractor, benchmark.class_list


def _summary(config: ASTConfig) -> str:
    frequency, time = config.grid
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", *GEOMETRY, "num_labels")
    fields = ", ".join(f"{name} {getattr(config, name)}" for name in names)
    return f"{fields} ({frequency} x {time} patches)"
