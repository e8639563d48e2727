"""Writes checkpoints for PyTorch: the original's `.pth` or a Hugging Face folder."""

import io
import json
import os
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from ast_jax.audio.feature_extractor import FILE_NAME, ASTFeatureExtractor
from ast_jax.checkpoint.format import CONFIG_FILE, Checkpoint, check_agreement
from ast_jax.checkpoint.torch_files import import_torch
from ast_jax.checkpoint.torch_infer import HEAD_WIDTH, infer_config
from ast_jax.checkpoint.torch_names import tensors_from_params
from ast_jax.checkpoint.torch_read import published_extractor
from ast_jax.errors import InputError, quoted
from ast_jax.io import atomic_write
from ast_jax.labels import label_fields
from ast_jax.models.ast import param_shapes
from ast_jax.models.config import GEOMETRY, ASTConfig
from ast_jax.urls import check_local

WEIGHTS_FILE = "model.safetensors"


def write_original(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a `.pth` as the original saves it, with names prefixed by `module.`.

    The file lacks the two unused ImageNet heads; the original's class loads it with
    `strict=False`, as it loads its own AudioSet checkpoint. The file lacks the configuration too:
    that class has fixed epsilons, 1e-6 in the encoder and 1e-5 in the head.

    Raises:
        InputError: `path` exists or cannot be written, or PyTorch is not installed.
    """
    _check_task(checkpoint.config, checkpoint.params, str(path))
    torch = import_torch(f"writing {path}")
    tensors = tensors_from_params(checkpoint.params, "original")
    content = {f"module.{k}": torch.from_numpy(v.copy()) for k, v in tensors.items()}
    with atomic_write(Path(path)) as temporary:
        # Serialized in memory, as torch.save to a full disk raises an error without the reason.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        temporary.write_bytes(buffer.getvalue())


def not_in_original(checkpoint: Checkpoint) -> str:
    """Lists what a `.pth` does not record and a reader would assume otherwise.

    Returns:
        Flags of ast-jax convert with their values, and words where there is no flag; ""
        if nothing is missing.
    """
    config, extractor = checkpoint.config, checkpoint.feature_extractor
    unrecorded = {}
    if config.hidden_size != HEAD_WIDTH * config.num_attention_heads:
        unrecorded["num_attention_heads"] = config.num_attention_heads
    tensors = tensors_from_params(checkpoint.params, "original")
    geometry = {name: getattr(config, name) for name in GEOMETRY}
    try:
        inferred = infer_config(tensors, "original", dict(unrecorded), "the file")
        same_geometry = {name: getattr(inferred, name) for name in GEOMETRY} == geometry
    except InputError:
        same_geometry = False
    if not same_geometry:
        unrecorded |= geometry
    published, _ = published_extractor(config.replace(**label_fields(config.num_labels)))
    for name in ("mean", "std"):
        if getattr(extractor, name) != getattr(published, name):
            unrecorded[name] = getattr(extractor, name)
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in unrecorded.items())
    missing = [flags] if flags else []
    if config.id2label not in (None, label_fields(config.num_labels).get("id2label")):
        missing.append("the names of its classes")
    if config.mask_padding:
        missing.append("that padding is masked")
    return " and ".join(missing)


def not_in_huggingface(config: ASTConfig) -> str:
    """Returns a sentence about what Hugging Face's class computes otherwise; "" if nothing."""
    if not config.mask_padding:
        return ""
    return (
        f"the model masks padding and transformers does not, so that its logits of clips under "
        f"{config.max_length} frames differ"
    )


def write_huggingface(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a new folder that Hugging Face's `from_pretrained` loads, with config and extractor.

    Hugging Face's class uses the encoder's epsilon in the head too.

    Raises:
        InputError: `path` exists or cannot be written.
    """
    config, extractor, params = checkpoint
    _check_task(config, params, str(path))
    _write_folder(Path(path), _huggingface_files(config, params, extractor))


def save_huggingface(
    path: str | os.PathLike[str],
    config: ASTConfig,
    params: dict[str, Any],
    extractor: ASTFeatureExtractor | None = None,
) -> None:
    """Writes a folder for Hugging Face, or replaces its files in a folder that has no others.

    Args:
        path: the folder.
        config: the model's configuration.
        params: its parameters, with or without the classifier.
        extractor: None to leave an existing preprocessor_config.json.

    Raises:
        InputError: `path` is a file, has other files or cannot be written; or the extractor or a
            parameter does not match the configuration.
    """
    check_local(path)
    path = Path(path)
    _check_task(config, params, str(path))
    _check_shapes(config, params, str(path))
    if extractor is not None:
        if not isinstance(extractor, ASTFeatureExtractor):
            raise InputError(
                f"feature_extractor is a {type(extractor).__name__}; give an ASTFeatureExtractor"
            )
        check_agreement(config, extractor, str(path))
    elif (path / FILE_NAME).is_file():
        check_agreement(config, ASTFeatureExtractor.from_pretrained(path), str(path))
    if note := not_in_huggingface(config):
        warnings.warn(f"{path}: {note}", stacklevel=3)
    files = _huggingface_files(config, params, extractor)
    if not os.path.lexists(path):
        _write_folder(path, files)
        return
    if not path.is_dir():
        raise InputError(f"{path}: is a file; give the path of a folder")
    others = {file.name for file in path.iterdir()} - {WEIGHTS_FILE, CONFIG_FILE, FILE_NAME}
    if others:
        raise InputError(
            f"{path}: holds other files than a model's, such as {quoted(min(others))}; choose a "
            f"new folder"
        )
    with ExitStack() as stack:  # renames the files after all are written
        for name, content in files.items():
            temporary = stack.enter_context(atomic_write(path / name, replace=True))
            temporary.write_bytes(content)


def _write_folder(path: Path, files: dict[str, bytes]) -> None:
    with atomic_write(path) as folder:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)


def _check_task(config: ASTConfig, params: dict[str, Any], target: str) -> None:
    """Raises `InputError` for a frame-level head, which would be read as that of clips."""
    if config.frame_level and "classifier" in params:
        raise InputError(
            f"{target}: not written, as PyTorch's classes have no frame-level head; write the "
            f"encoder alone with ASTModel.from_pretrained and save_pretrained"
        )


def _check_shapes(config: ASTConfig, params: dict[str, Any], source: str) -> None:
    """Raises `InputError` if parameters are not those of the configuration."""
    expected = {part: arrays for part, arrays in param_shapes(config).items() if part in params}
    found_shapes, expected_shapes = (
        {name: array.shape for name, array in traverse_util.flatten_dict(tree, sep="/").items()}
        for tree in (params, expected)
    )
    for name in sorted(found_shapes.keys() | expected_shapes.keys()):
        found, wanted = found_shapes.get(name, "none"), expected_shapes.get(name, "none")
        if found != wanted:
            raise InputError(
                f"{source}: parameter {name} has shape {found}, and the model's configuration "
                f"requires {wanted}; correct model.config or the parameter"
            )


def _huggingface_files(
    config: ASTConfig, params: dict[str, Any], extractor: ASTFeatureExtractor | None
) -> dict[str, bytes]:
    """Returns the contents of the files of a Hugging Face folder by name."""
    from safetensors.numpy import save

    tensors = {
        name: np.asarray(tensor, np.float32)
        for name, tensor in tensors_from_params(params, "huggingface").items()
    }
    # In transformers, dtype is the precision of the stored weights.
    fields = config.to_dict() | {"dtype": "float32"}
    if "classifier" not in params:
        fields["architectures"] = ["ASTModel"]
        fields.pop("frame_level", None)
    files = {
        WEIGHTS_FILE: save(tensors, metadata={"format": "pt"}),
        CONFIG_FILE: _json_bytes(fields),
    }
    if extractor is not None:
        files[FILE_NAME] = _json_bytes(extractor.to_dict())
    return files


def _json_bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
