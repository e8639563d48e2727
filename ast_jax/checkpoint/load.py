"""Finds and reads a checkpoint of any kind by its path."""

import difflib
import os
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ast_jax.checkpoint.adapt import adapt_checkpoint
from ast_jax.checkpoint.checksums import NO_CHECKSUMS, read_checksums
from ast_jax.checkpoint.format import (
    CONFIG_FILE,
    Checkpoint,
    is_checkpoint,
    load_checkpoint,
    load_description,
)
from ast_jax.checkpoint.torch_files import INDEX_SUFFIX
from ast_jax.checkpoint.torch_folder import read_folder_config, select_folder
from ast_jax.checkpoint.torch_read import read_torch_checkpoint
from ast_jax.errors import InputError
from ast_jax.models.config import GEOMETRY, ASTConfig
from ast_jax.storage import fetch, list_files
from ast_jax.urls import is_remote, normalize

LAST_FILE = "_CHECKPOINT_METADATA"  # of a checkpoint: Orbax's, at its top
PUBLISHER = "MIT"  # of the checkpoints ast-finetuned-… on the Hugging Face hub
WEIGHT_SUFFIXES = {".bin", ".ckpt", ".pt", ".pth", ".safetensors"}


def read_checkpoint(
    path: str | Path,
    changes: Mapping[str, Any] = MappingProxyType({}),
    *,
    head_seed: int = 0,
    guesses: list[str] | None = None,
    headless: bool = False,
) -> Checkpoint:
    """Reads a checkpoint of ast_jax or PyTorch, or the newest of a training run.

    Args:
        path: a checkpoint or run folder, a Hugging Face folder, a `.safetensors`, an original
            `.pth`, or a distilled DeiT's; also the URL of one, see `fetch_checkpoint`.
        changes: fields of `ASTConfig` to change, see `adapt_params`.
        head_seed: the seed that initializes a new classification head.
        guesses: receives a line for each thing that a PyTorch file does not record and that was
            assumed, or that was chosen or left out; None to issue one warning with them.
        headless: whether a checkpoint without a classification head is accepted.

    Raises:
        InputError: the checkpoint is missing or damaged, or cannot be changed so.
    """
    local = fetch_checkpoint(path)
    found: list[str] = []
    if folder := find_checkpoint(local):
        checkpoint = load_checkpoint(folder)
    else:
        checkpoint, _, found = read_torch_checkpoint(local, target_fields=dict(changes))
    source = checkpoint.config
    checkpoint = adapt_checkpoint(checkpoint, changes, head_seed)
    if source.frame_level != checkpoint.config.frame_level and not headless:
        old, new = ("frame", "clip") if source.frame_level else ("clip", "frame")
        found.append(f"is {old}-level; its encoder is kept, and the {new}-level head is untrained")
    if guesses is not None:
        if folder and folder != local and folder.parent.name == "checkpoints":
            found.append(f"the run is not finished, and its step {folder.name} is used")
        if folder and read_checksums(folder) is None:
            found.append(NO_CHECKSUMS)
        found += _describe_adaptation(source, checkpoint.config)
    if "classifier" not in checkpoint.params and not headless:
        raise InputError(
            f"{local}: has no classification head; train one, or give num_labels=N to add an "
            f"untrained one"
        )
    _report(path, found, guesses)
    return checkpoint


def _describe_adaptation(before: ASTConfig, after: ASTConfig) -> list[str]:
    """Returns sentences about changes of a checkpoint's input, strides and masks."""
    found = []
    if after.mask_padding and not before.mask_padding:
        found.append("padding is masked, and was not when it was trained")
    if before.mask_padding and not after.mask_padding:
        found.append("padding is not masked, and was when it was trained")
    changes = [
        f"{name} {getattr(before, name)} → {getattr(after, name)}"
        for name in GEOMETRY
        if getattr(before, name) != getattr(after, name)
    ]
    if changes:
        found.append(f"position embeddings are adapted: {', '.join(changes)}")
    return found


def read_config(path: str | Path) -> ASTConfig:
    """Reads the configuration alone of a checkpoint, a run or a folder with a config.json.

    Raises:
        InputError: there is none, or it is not of this model.
    """
    local = fetch_checkpoint(path)
    if folder := find_checkpoint(local):
        return load_description(folder)[0]
    if local.is_file():
        raise InputError(f"{local}: is a file; give the folder of its {CONFIG_FILE}")
    folder, guesses = select_folder(local, [CONFIG_FILE])
    config, dropout = read_folder_config(folder)
    _report(path, guesses + dropout, None)
    return config


def _report(path: str | Path, found: list[str], guesses: list[str] | None) -> None:
    """Appends to the caller's `guesses`; without them warns the caller's caller."""
    if guesses is not None:
        guesses += found
    elif found:
        warnings.warn(f"{path}: {'; '.join(found)}", stacklevel=4)


def fetch_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Returns a local path of a checkpoint: the same, or for a URL that of a downloaded copy.

    Of a run at a URL only the result, or the newest complete step, is downloaded.

    Raises:
        InputError: there is no checkpoint at the path, or the storage cannot be read.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise InputError(f"the checkpoint's path is {path!r}; give the path of a file or folder")
    if not is_remote(path):
        path = Path(path)
        try:
            exists = path.exists()
        except OSError as error:  # a name too long, a folder that is not readable
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); give the path of a checkpoint"
            ) from None
        if not exists:
            raise missing_checkpoint(path)
        if path.suffix == ".json" and not path.name.endswith(INDEX_SUFFIX):
            raise InputError(f"{path}: is no file of weights; give its folder, {path.parent}")
        return path
    url = normalize(path)
    listing = list_files(url)
    if f"model/{LAST_FILE}" in listing:
        url += "/model"
    elif any(name.startswith("model/") for name in listing):
        raise InputError(f"{url}: its model is incomplete; wait, or run its command again")
    elif step := newest_step(listing):
        url += f"/checkpoints/{step}"
    elif "run.json" in listing:
        raise InputError(f"{url}: has no complete checkpoint yet; wait for the run's first")
    elif listing and not any(
        re.search(rf"^$|(^|/)({LAST_FILE}|{CONFIG_FILE})$|\.(safetensors|bin)$", name)
        for name in listing
    ):
        raise InputError(f"{url}: is not a checkpoint; give the URL of one, or of a run")
    return fetch(url)


def newest_step(names: Collection[str]) -> int:
    """Returns the step of the newest complete checkpoint among a run's files, 0 for none."""
    steps = [re.fullmatch(rf"checkpoints/(\d+)/{LAST_FILE}", name) for name in names]
    return max((int(step[1]) for step in steps if step), default=0)


def complete_names(listing: Collection[str]) -> list[str]:
    """Returns the names of a run's files, without those of incomplete checkpoints."""
    folders = {name: re.match(r"(model|checkpoints/\d+)/", name) for name in listing}
    return [
        name
        for name, folder in folders.items()
        if folder is None or f"{folder[1]}/{LAST_FILE}" in listing
    ]


def missing_checkpoint(path: Path) -> InputError:
    """Returns the error for a path that does not exist: misspelled, or a model's name on a hub."""
    hint = "give the path of a checkpoint"
    is_hub_name = re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(path)) and not path.parent.exists()
    if similar := _similar_path(path):
        hint = f"did you mean {similar}?"
    elif path.name.startswith("ast-finetuned-") and path.parts[0] != PUBLISHER:  # the configs' path
        hint += f", or download it: hf download {PUBLISHER}/{path.name} --local-dir {path}"
    elif is_hub_name and path.suffix not in WEIGHT_SUFFIXES:
        local = Path("checkpoints") / path.name
        hint += (
            f", or download this one and give its folder: hf download {path} --local-dir {local}"
        )
    return InputError(f"{path}: no such file or folder; {hint}")


def _similar_path(path: Path) -> Path | None:
    """Returns the existing path that differs from a missing one by a misspelled part, or None."""
    folder = next(parent for parent in path.parents if parent.exists())
    missing, *rest = path.relative_to(folder).parts
    try:
        close = difflib.get_close_matches(missing, os.listdir(folder), 1)
    except OSError:  # a file, or not readable
        return None
    similar = folder.joinpath(*close, *rest)
    return similar if close and similar.exists() else None


def find_checkpoint(path: Path) -> Path | None:
    """Returns the checkpoint folder at `path`: itself, or a run's result or newest step.

    Returns None if there is no checkpoint of ast_jax.
    """
    for folder in (path, path / "model"):
        if is_checkpoint(folder):
            return folder
    steps = step_folders(path)
    return steps[-1] if steps else None


def step_folders(path: Path) -> list[Path]:
    """Returns the checkpoint folders of a training run, oldest first."""
    folders = (path / "checkpoints").glob("[0-9]*")
    # Orbax writes to a folder with a longer name, and renames it when it is complete.
    steps = [step for step in folders if step.name.isdecimal() and is_checkpoint(step)]
    return sorted(steps, key=lambda step: int(step.name))
