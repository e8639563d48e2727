"""Reads any PyTorch checkpoint and reports what was found and what was assumed."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ast_jax.audio.feature_extractor import FILE_NAME, ASTFeatureExtractor
from ast_jax.checkpoint.format import CONFIG_FILE, Checkpoint, check_agreement
from ast_jax.checkpoint.torch_files import read_state_dict
from ast_jax.checkpoint.torch_folder import (
    WEIGHT_FILES,
    find_weights,
    read_folder_config,
    read_folder_extractor,
    select_folder,
)
from ast_jax.checkpoint.torch_infer import infer_config, infer_encoder, make_config, square_grid
from ast_jax.checkpoint.torch_names import Tensors, finite_float32, params_from_tensors, tensor_name
from ast_jax.checkpoint.torch_state_dict import normalize_names
from ast_jax.errors import InputError
from ast_jax.labels import AUDIOSET, BY_NUM_LABELS, label_fields
from ast_jax.models.config import GEOMETRY, ASTConfig
from ast_jax.models.positions import resize_position_embeddings

NO_EXTRACTOR = f"no {FILE_NAME}"  # how the guess about mean and std starts
NAMED_AS = {"original": "the original's", "huggingface": "Hugging Face's", "deit": "DeiT's"}


class Converted(NamedTuple):
    """A checkpoint read from PyTorch, with notes for the user.

    Attributes:
        checkpoint: the converted checkpoint.
        notes: what was read.
        guesses: what the user must know: what the file does not record and was assumed, as in the
            published checkpoints, and what was chosen or left out.
    """

    checkpoint: Checkpoint
    notes: list[str]
    guesses: list[str]


def read_torch_checkpoint(
    path: str | Path,
    source_fields: dict[str, int] | None = None,
    target_fields: dict[str, Any] | None = None,
) -> Converted:
    """Reads an original `.pth`, a Hugging Face or Trainer folder, a `.safetensors`, or a DeiT.

    Args:
        path: the file or folder.
        source_fields: strides, `max_length`, `num_mel_bins` and `num_attention_heads` of the
            source, where the file does not record them.
        target_fields: fields of the AST to create from an ImageNet checkpoint; ignored for other
            checkpoints.

    Raises:
        InputError: the checkpoint cannot be used; the message names the file or tensor.
    """
    path, source_fields = Path(path), dict(source_fields or {})
    target_fields = target_fields or {}
    run = path if path.is_dir() else path.parent
    folder, guesses = select_folder(path) if path.is_dir() else (path.parent, [])
    file = find_weights(folder) if path.is_dir() else path
    # A file with Hugging Face's name is described by the config.json beside it.
    is_described = path.is_dir() or (path.name in WEIGHT_FILES and (folder / CONFIG_FILE).is_file())
    state_dict = read_state_dict(file)
    tensors, checkpoint_format, copies = normalize_names(state_dict.tensors, str(file))
    guesses += state_dict.notes + copies
    notes = [f"{file}: {len(tensors)} tensors, named as {NAMED_AS[checkpoint_format]}"]
    if checkpoint_format == "deit":
        config = _ast_from_imagenet(tensors, source_fields | target_fields, str(file))
        notes.append(f"inferred: {_summary(config)}")
        notes.append("an ImageNet checkpoint to start a training from: it has no classifier")
    elif is_described:
        config, dropout = read_folder_config(folder, tensors, source_fields)
        notes.append(f"config.json: {_summary(config)}")
        guesses += dropout
    else:
        config = infer_config(tensors, checkpoint_format, source_fields, str(file))
        guesses.append(f"inferred: {_summary(config)}")
        new_head = target_fields.get("num_labels", config.num_labels) != config.num_labels
        renamed = target_fields.keys() & {"id2label", "label2id"}
        if config.id2label and not renamed and not new_head:
            guesses.append(
                f"no class names: those of {BY_NUM_LABELS[config.num_labels].class_list} are used, "
                f"as it has {config.num_labels} classes too; if they are others, convert the file "
                f"with --to-huggingface and correct id2label and problem_type in its config.json"
            )
    params, ignored = params_from_tensors(tensors, checkpoint_format, config, str(file))
    notes.append(f"ignored tensors: {', '.join(state_dict.ignored + ignored) or 'none'}")
    extractor = read_folder_extractor(folder, run) if is_described else None
    if extractor:
        check_agreement(config, extractor, str(folder))
    else:
        extractor, benchmark = published_extractor(config)
        guesses.append(
            f"{NO_EXTRACTOR}: mean {extractor.mean} and std {extractor.std} of {benchmark} are "
            f"used; to change them pass --mean and --std to ast-jax convert"
        )
    return Converted(Checkpoint(config, extractor, params), notes, guesses)


def published_extractor(config: ASTConfig) -> tuple[ASTFeatureExtractor, str]:
    """Returns the feature extractor of the published checkpoints with these classes.

    A checkpoint without preprocessor_config.json most likely uses it. For classes of no benchmark
    it is AudioSet's, the default of Hugging Face's class.

    Returns:
        The extractor, and the name of the benchmark that its mean and std are from.
    """
    is_published = config.id2label == label_fields(config.num_labels).get("id2label")
    benchmark = BY_NUM_LABELS.get(config.num_labels, AUDIOSET) if is_published else AUDIOSET
    extractor = ASTFeatureExtractor(
        num_mel_bins=config.num_mel_bins,
        max_length=config.max_length,
        mean=benchmark.mean,
        std=benchmark.std,
    )
    return extractor, benchmark.class_list


def _ast_from_imagenet(tensors: Tensors, fields: dict[str, Any], source: str) -> ASTConfig:
    """Converts an ImageNet checkpoint's tensors to those of an AST, in place.

    As in the original's `ASTModel.__init__`, the patch embedding is summed over RGB and the
    positional embedding is resized to the grid of `fields`.

    Returns:
        The configuration of the AST.
    """
    heads = fields.get("num_attention_heads")
    config = make_config(infer_encoder(tensors, "deit", source, heads) | fields, source)
    name = tensor_name("ast/embeddings/patch_projection/kernel", "deit")
    kernel = finite_float32(tensors, name, source)
    if kernel.shape[1] != 3:
        raise InputError(
            f"{source}: tensor {name} has shape {kernel.shape}, not the three channels of an "
            f"ImageNet checkpoint; give a distilled DeiT's file"
        )
    tensors[name] = kernel.sum(axis=1, keepdims=True)
    grid = square_grid(tensors, "deit", config.hidden_size, source)
    name = tensor_name("ast/embeddings/position_embeddings", "deit")
    positions = resize_position_embeddings(finite_float32(tensors, name, source), grid, config.grid)
    tensors[name] = np.asarray(positions)
    return config


def _summary(config: ASTConfig) -> str:
    frequency, time = config.grid
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", *GEOMETRY, "num_labels")
    fields = ", ".join(f"{name} {getattr(config, name)}" for name in names)
    return f"{fields} ({frequency} x {time} patches)"
