"""Converts checkpoints: PyTorch's to ours, and ours back.

    python convert_torch_weights.py SOURCE OUTPUT
    python convert_torch_weights.py SOURCE OUTPUT --to-huggingface

SOURCE is an original `.pth`, a distilled DeiT's `.pth`, a Hugging Face folder, a
`.safetensors`, or a checkpoint of ours.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from ast_jax.checkpoint.adapt import adapt_checkpoint
from ast_jax.checkpoint.format import Checkpoint, load_checkpoint, save_checkpoint
from ast_jax.checkpoint.load import find_checkpoint, no_checkpoint
from ast_jax.checkpoint.torch_read import read_torch_checkpoint
from ast_jax.checkpoint.torch_write import not_in_original, write_huggingface, write_original
from ast_jax.cli.command import positive, run_command
from ast_jax.errors import InputError
from ast_jax.io import check_free
from ast_jax.models.config import GEOMETRY


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a checkpoint of any kind, see above")
    parser.add_argument("output", type=Path, help="a new folder, or file with --to-torch")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--to-torch", action="store_true", help="write an original .pth")
    target.add_argument(
        "--to-huggingface", action="store_true", help="write a folder for transformers"
    )
    for field in GEOMETRY:
        flag = f"--{field.replace('_', '-')}"
        parser.add_argument(
            flag, type=positive, help="of the source, where its tensors leave it open"
        )
    parser.add_argument(
        "--num-attention-heads", type=positive, help="the same (the width divided by 64)"
    )
    parser.add_argument("--num-labels", type=positive, help="make a new head of that many classes")
    parser.add_argument("--mean", type=float, help="of the log-mels the model was trained on")
    parser.add_argument("--std", type=float, help="their standard deviation")
    arguments = parser.parse_args(argv)
    # Orbax logs with a traceback what is said below in a sentence.
    logging.set_verbosity(logging.FATAL)
    return run_command("convert_torch_weights.py", lambda: convert(arguments), arguments.output)


def convert(arguments: argparse.Namespace) -> None:
    """Reads, says what was read, and writes."""
    output = arguments.output
    check_free(output)
    checkpoint = read(arguments)
    if arguments.to_torch:
        write_original(output, checkpoint)
        if missing := not_in_original(checkpoint):
            print(
                f"note: a .pth does not hold {' '.join(missing)}; whoever reads it must be told, "
                f"and --to-huggingface writes everything"
            )
    elif arguments.to_huggingface:
        write_huggingface(output, checkpoint)
    else:
        save_checkpoint(output, checkpoint)
    print(f"wrote {output}")


def read(arguments: argparse.Namespace) -> Checkpoint:
    """The source, with the flags' word on what it leaves open."""
    source = arguments.source
    if not source.exists():
        raise no_checkpoint(source)
    geometry = _given(arguments, *GEOMETRY, "num_attention_heads")
    statistics = _given(arguments, "mean", "std")
    if ours := find_checkpoint(source):
        if geometry:
            flags = " and ".join(f"--{field.replace('_', '-')}" for field in geometry)
            raise InputError(f"{source}: says itself what its input is; leave {flags} out")
        checkpoint = load_checkpoint(ours)
    else:
        checkpoint, notes, guesses = read_torch_checkpoint(source, geometry, geometry)
        if len(statistics) == 2:
            guesses = [guess for guess in guesses if "--mean" not in guess]
        print("\n".join(notes + guesses))
    before = checkpoint
    checkpoint = adapt_checkpoint(checkpoint, _given(arguments, "num_labels"))
    if checkpoint.params.get("classifier") is not before.params.get("classifier"):
        print(f"a new classifier of {checkpoint.config.num_labels} classes, untrained")
    extractor = dataclasses.replace(checkpoint.feature_extractor, **statistics)
    return checkpoint._replace(feature_extractor=extractor)


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


if __name__ == "__main__":
    sys.exit(main())
