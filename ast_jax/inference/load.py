"""Any checkpoint from its path."""

import dataclasses
from pathlib import Path
from typing import Any

from ast_jax.checkpoint import Checkpoint, is_checkpoint, load_checkpoint
from ast_jax.convert.infer import label_fields
from ast_jax.convert.read import read_torch_checkpoint
from ast_jax.errors import InputError
from ast_jax.models.adapt import adapt_params


def read_checkpoint(path: str | Path, *, head_seed: int = 0, **changes: Any) -> Checkpoint:
    """Reads a checkpoint of ours, a training run's newest, or any of PyTorch's.

    Args:
        path: a checkpoint or run folder of ours, a Hugging Face folder, a `.safetensors`, an
            original `.pth`, or a distilled DeiT's.
        head_seed: what a new classification head is initialised from.
        **changes: fields of `ASTConfig` to change, see `adapt_params`.

    Raises:
        InputError: there is no checkpoint, it is damaged, or it cannot be changed so.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if is_checkpoint(path):
        checkpoint = load_checkpoint(path)
    elif steps := run_steps(path):
        checkpoint = load_checkpoint(steps[-1])
    else:
        checkpoint = read_torch_checkpoint(path, target_fields=changes).checkpoint
    return change(checkpoint, changes, head_seed)


def change(checkpoint: Checkpoint, changes: dict[str, Any], head_seed: int = 0) -> Checkpoint:
    """The checkpoint with other configuration fields, its parameters adapted to them.

    Raises:
        InputError: the checkpoint lacks a classifier and no `num_labels` asks for a new one.
    """
    old = checkpoint.config
    asked = "num_labels" in changes or "id2label" in changes
    headless = "classifier" not in checkpoint.params
    num_labels = changes.get("num_labels", old.num_labels)
    if num_labels != old.num_labels or headless:
        changes = label_fields(num_labels) | changes
    new = old.replace(**changes)
    if headless and not asked:
        raise InputError(
            "the checkpoint has no classification head; give num_labels to make a new one"
        )
    extractor = dataclasses.replace(
        checkpoint.feature_extractor, max_length=new.max_length, num_mel_bins=new.num_mel_bins
    )
    return Checkpoint(new, extractor, adapt_params(checkpoint.params, old, new, head_seed))


def run_steps(path: Path) -> list[Path]:
    """The checkpoint folders of a training run, oldest first."""
    steps = [step for step in (path / "checkpoints").glob("[0-9]*") if is_checkpoint(step)]
    return sorted(steps, key=lambda step: int(step.name))
