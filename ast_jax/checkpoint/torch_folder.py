"""Finds and reads the files of a Hugging Face folder, or of its Trainer's newest checkpoint."""

import re
from collections.abc import Collection
from pathlib import Path

from ast_jax.audio.feature_extractor import FILE_NAME, ASTFeatureExtractor
from ast_jax.checkpoint.format import CONFIG_FILE
from ast_jax.checkpoint.torch_names import Tensors, tensor_name
from ast_jax.errors import InputError
from ast_jax.io import read_json
from ast_jax.labels import label_fields
from ast_jax.models.config import ASTConfig, dropout_notes

# Of a folder; those with an index are in several files.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def select_folder(path: Path, names: Collection[str] = WEIGHT_FILES) -> tuple[Path, list[str]]:
    """Returns the folder that has one of the files: `path`, or its newest `checkpoint-N`.

    Returns:
        The folder, and a note if it is a Trainer's checkpoint. If there is none, `path`.
    """
    if any((path / name).exists() for name in names):
        return path, []
    steps = {
        int(match[1]): folder
        for folder in path.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d{1,18})", folder.name, re.ASCII))
    }
    if not steps:
        return path, []
    newest = steps[max(steps)]
    return newest, [f"{newest.name} is used, the newest checkpoint of a Trainer there"]


def find_weights(folder: Path) -> Path:
    """Returns the file of the weights, or the index of several.

    Raises:
        InputError: there is none.
    """
    for name in WEIGHT_FILES:
        if (folder / name).exists():
            return folder / name
    names = [name for name in WEIGHT_FILES if "index" not in name]
    raise InputError(
        f"{folder}: no checkpoint: neither one of ast_jax nor {' nor '.join(names)} is there; give "
        f"the path of a checkpoint"
    )


def read_folder_config(
    folder: Path, tensors: Tensors | None = None, known: dict[str, int] | None = None
) -> tuple[ASTConfig, list[str]]:
    """Reads config.json, with notes about what it has and this model has not.

    Args:
        folder: the folder.
        tensors: the checkpoint's, which have the number of classes if the file lacks it.
        known: fields that the caller knows, which the file must not contradict.

    Raises:
        InputError: the file is missing, or no configuration of this model.
    """
    file = folder / CONFIG_FILE
    fields = read_json(file)
    if not isinstance(fields, dict):
        raise InputError(f"{file}: expected a JSON object of configuration fields")
    # In transformers, dtype is the precision of the stored weights, not of the computation.
    fields.pop("dtype", None)
    head = (tensors or {}).get(tensor_name("classifier/dense/kernel", "huggingface"))
    if fields.get("id2label") is None and head is not None:
        fields.setdefault("num_labels", len(head))
    config = ASTConfig.from_dict(fields, source=str(file))
    for name, value in (known or {}).items():
        if getattr(config, name) != value:
            raise InputError(
                f"{file}: {name} is {getattr(config, name)}, not {value}; leave "
                f"--{name.replace('_', '-')} out"
            )
    benchmark = label_fields(config.num_labels)
    # Hugging Face's files do not record that AudioSet is multi-label.
    if not fields.get("problem_type") and benchmark.get("id2label") == config.id2label:
        config = config.replace(problem_type=benchmark["problem_type"])
    return config, dropout_notes(fields)


def read_folder_extractor(folder: Path, run: Path) -> ASTFeatureExtractor | None:
    """Reads preprocessor_config.json of a folder, or else of the Trainer's run that it is in."""
    for place in (folder, run):
        if (place / FILE_NAME).exists():
            return ASTFeatureExtractor.from_pretrained(place)
    return None
