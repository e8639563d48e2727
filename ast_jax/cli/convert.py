"""Converts checkpoints from PyTorch, and back; the script convert_torch_weights.py runs it."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from absl import logging

from ast_jax.checkpoint.adapt import adapt_checkpoint
from ast_jax.checkpoint.format import Checkpoint, load_checkpoint, save_checkpoint
from ast_jax.checkpoint.load import fetch_checkpoint, find_checkpoint
from ast_jax.checkpoint.torch_read import read_torch_checkpoint
from ast_jax.checkpoint.torch_write import not_in_original, write_huggingface, write_original
from ast_jax.cli.command import positive
from ast_jax.errors import InputError
from ast_jax.io import check_free
from ast_jax.models.config import GEOMETRY
from ast_jax.storage import check_local


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the conversion."""
    parser.add_argument("source", type=Path, help="a checkpoint of any kind, see above")
    parser.add_argument("output", type=Path, help="a new folder, or file with --to-torch")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--to-torch", action="store_true", help="write an original .pth")
    target.add_argument(
        "--to-huggingface", action="store_true", help="write a folder for transformers"
    )
    for field in GEOMETRY:
        parser.add_argument(
            f"--{field.replace('_', '-')}",
            type=positive,
            help="of the source, if its tensors leave it ambiguous",
        )
    parser.add_argument(
        "--num-attention-heads", type=positive, help="of the source (its width divided by 64)"
    )
    parser.add_argument("--num-labels", type=positive, help="add a new head with that many classes")
    parser.add_argument("--mean", type=float, help="mean of the log-mels the model was trained on")
    parser.add_argument("--std", type=float, help="their standard deviation")


def run(arguments: argparse.Namespace) -> None:
    """Reads the source, prints what was read, and writes the output."""
    # Orbax logs a failed save with a traceback; the InputError is one sentence.
    logging.set_verbosity(logging.FATAL)
    output = arguments.output
    check_local(output)
    check_free(output)
    checkpoint = read_source(arguments)
    if arguments.to_torch:
        write_original(output, checkpoint)
        if missing := not_in_original(checkpoint):
            print(
                f"note: a .pth does not record {missing}; pass them on with the file, or "
                f"use --to-huggingface, which records everything"
            )
    elif arguments.to_huggingface:
        write_huggingface(output, checkpoint)
    else:
        save_checkpoint(output, checkpoint)
    print(f"wrote {output}")


def read_source(arguments: argparse.Namespace) -> Checkpoint:
    """Reads the source; flags fill in what it does not record."""
    source = fetch_checkpoint(arguments.source)
    fields = _given(arguments, *GEOMETRY, "num_attention_heads")
    statistics = _given(arguments, "mean", "std")
    if folder := find_checkpoint(source):
        if fields:
            flags = " and ".join(f"--{field.replace('_', '-')}" for field in fields)
            raise InputError(f"{source}: records its input itself; leave {flags} out")
        checkpoint = load_checkpoint(folder)
    else:
        checkpoint, notes, guesses = read_torch_checkpoint(source, fields, fields)
        if len(statistics) == 2:
            guesses = [guess for guess in guesses if "--mean" not in guess]
        print("\n".join(notes + guesses))
    old_head = checkpoint.params.get("classifier")
    checkpoint = adapt_checkpoint(checkpoint, _given(arguments, "num_labels"))
    if checkpoint.params.get("classifier") is not old_head:
        print(f"a new classifier of {checkpoint.config.num_labels} classes, untrained")
    extractor = dataclasses.replace(checkpoint.feature_extractor, **statistics)
    return checkpoint._replace(feature_extractor=extractor)


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Returns those of the named arguments that were passed."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}
