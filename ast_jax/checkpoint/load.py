"""Any checkpoint from its path."""

import re
from pathlib import Path
from typing import Any

from ast_jax.checkpoint.adapt import adapt_checkpoint
from ast_jax.checkpoint.format import Checkpoint, is_checkpoint, load_checkpoint
from ast_jax.checkpoint.torch_read import read_torch_checkpoint
from ast_jax.errors import InputError


def read_checkpoint(
    path: str | Path, *, head_seed: int = 0, guesses: list[str] | None = None, **changes: Any
) -> Checkpoint:
    """Reads a checkpoint of ours, a training run's newest, or any of PyTorch's.

    Args:
        path: a checkpoint or run folder of ours, a Hugging Face folder, a `.safetensors`, an
            original `.pth`, or a distilled DeiT's.
        head_seed: what a new classification head is initialised from.
        guesses: gets a line for each thing that a file of PyTorch's does not say, and what it was
            taken for.
        **changes: fields of `ASTConfig` to change, see `adapt_params`.

    Raises:
        InputError: there is no checkpoint, it is damaged, or it cannot be changed so.
    """
    path = Path(path)
    if not path.exists():
        raise no_checkpoint(path)
    if ours := find_checkpoint(path):
        checkpoint = load_checkpoint(ours)
    else:
        checkpoint, _, guessed = read_torch_checkpoint(path, target_fields=changes)
        if guesses is not None:
            guesses += guessed
    checkpoint = adapt_checkpoint(checkpoint, changes, head_seed)
    if "classifier" not in checkpoint.params:
        raise InputError(
            f"{path}: has no classification head; train one, or give num_labels to make an "
            f"untrained one"
        )
    return checkpoint


def no_checkpoint(path: Path) -> InputError:
    """What to raise where there is nothing, which may be the name of a model on a hub."""
    hint = "give the path of a checkpoint"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        hint += f", or get this one first by: hf download {path} --local-dir {path.name}"
    return InputError(f"{path}: no such file or folder; {hint}")


def find_checkpoint(path: Path) -> Path | None:
    """The folder of ours that `path` means: itself, a run's result or newest, or none."""
    for place in (path, path / "model"):
        if is_checkpoint(place):
            return place
    steps = step_folders(path)
    return steps[-1] if steps else None


def step_folders(path: Path) -> list[Path]:
    """The checkpoint folders of a training run, oldest first."""
    folders = (path / "checkpoints").glob("[0-9]*")
    # Orbax writes a step under a longer name and renames it once it is whole.
    steps = [step for step in folders if step.name.isdecimal() and is_checkpoint(step)]
    return sorted(steps, key=lambda step: int(step.name))
