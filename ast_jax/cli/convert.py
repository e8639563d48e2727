"""`ast-jax convert`: converts checkpoints from PyTorch, and back."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ast_jax.cli.arguments import Positive, check_given
from ast_jax.cli.command import naming
from ast_jax.errors import InputError
from ast_jax.io import check_free
from ast_jax.urls import check_local

if TYPE_CHECKING:
    from ast_jax.checkpoint.format import Checkpoint


def convert(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
    output: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")],
    *,
    to_torch: bool = False,
    to_huggingface: bool = False,
    frequency_stride: Positive | None = None,
    time_stride: Positive | None = None,
    max_length: Positive | None = None,
    num_mel_bins: Positive | None = None,
    num_attention_heads: Positive | None = None,
    num_labels: Positive | None = None,
    mean: float | None = None,
    std: float | None = None,
) -> int:
    """Convert a checkpoint from PyTorch, or to it.

    Args:
        source: an original .pth, a distilled DeiT's .pth, a Hugging Face folder, a .safetensors,
            or a checkpoint of ast_jax
        output: a new folder, or a new file with --to-torch
        to_torch: write an original .pth
        to_huggingface: write a folder for transformers
        frequency_stride: of the source, if its tensors leave it ambiguous
        time_stride: of the source, if its tensors leave it ambiguous
        max_length: of the source, if its tensors leave it ambiguous
        num_mel_bins: of the source, if its tensors leave it ambiguous
        num_attention_heads: of the source; its width divided by 64 if not given
        num_labels: add a new head with that many classes
        mean: mean of the log-mels the model was trained on
        std: their standard deviation
    """
    from absl import logging

    from ast_jax.checkpoint.adapt import adapt_checkpoint
    from ast_jax.checkpoint.format import save_checkpoint
    from ast_jax.checkpoint.torch_write import (
        not_in_huggingface,
        not_in_original,
        write_huggingface,
        write_original,
    )

    # Orbax logs a failed save with a traceback; the InputError is one sentence.
    logging.set_verbosity(logging.FATAL)
    if to_torch and to_huggingface:
        raise InputError("--to-torch and --to-huggingface exclude each other; give one of them")
    check_given(source=source, output=output)
    check_local(output)
    target = Path(output)
    check_free(target)
    fields = _given(
        frequency_stride=frequency_stride,
        time_stride=time_stride,
        max_length=max_length,
        num_mel_bins=num_mel_bins,
        num_attention_heads=num_attention_heads,
    )
    statistics = _given(mean=mean, std=std)
    checkpoint = read_source(Path(source), fields, statistics)
    old_head = checkpoint.params.get("classifier")
    checkpoint = adapt_checkpoint(checkpoint, _given(num_labels=num_labels))
    if checkpoint.params.get("classifier") is not old_head:
        print(f"a new classifier of {checkpoint.config.num_labels} classes, untrained")
    extractor = dataclasses.replace(checkpoint.feature_extractor, **statistics)
    checkpoint = checkpoint._replace(feature_extractor=extractor)
    with naming(target):
        if to_torch:
            write_original(target, checkpoint)
            if missing := not_in_original(checkpoint):
                print(
                    f"note: a .pth does not record {missing}; pass them on with the file, or "
                    f"use --to-huggingface, which records everything"
                )
        elif to_huggingface:
            write_huggingface(target, checkpoint)
            if note := not_in_huggingface(checkpoint.config):
                print(f"note: {note}")
        else:
            save_checkpoint(target, checkpoint)
    print(f"wrote {output}")
    return 0


def read_source(path: Path, fields: dict[str, Any], statistics: dict[str, float]) -> "Checkpoint":
    """Reads the source and prints what was read; `fields` fill in what it does not record."""
    from ast_jax.checkpoint.format import load_checkpoint
    from ast_jax.checkpoint.load import fetch_checkpoint, find_checkpoint
    from ast_jax.checkpoint.torch_read import read_torch_checkpoint

    source = fetch_checkpoint(path)
    if folder := find_checkpoint(source):
        if fields:
            flags = " and ".join(f"--{field.replace('_', '-')}" for field in fields)
            raise InputError(f"{source}: records its input itself; leave {flags} out")
        return load_checkpoint(folder)
    checkpoint, notes, guesses = read_torch_checkpoint(source, fields, fields)
    if len(statistics) == 2:
        guesses = [guess for guess in guesses if "--mean" not in guess]
    print("\n".join(notes + guesses))
    return checkpoint


def _given(**values: Any) -> dict[str, Any]:
    """Returns the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}
