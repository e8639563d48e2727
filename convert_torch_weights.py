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

from ast_jax.checkpoint import Checkpoint, is_checkpoint, save_checkpoint
from ast_jax.convert.infer import GEOMETRY
from ast_jax.convert.read import read_torch_checkpoint
from ast_jax.convert.write import write_huggingface, write_original
from ast_jax.errors import InputError
from ast_jax.inference.load import change, read_checkpoint, run_steps


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path, help="a new folder, or file with --to-torch")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--to-torch", action="store_true", help="write an original .pth")
    target.add_argument("--to-huggingface", action="store_true", help="write a folder for it")
    for field in GEOMETRY:
        flag = f"--{field.replace('_', '-')}"
        parser.add_argument(flag, type=int, help="where the tensors leave it open")
    parser.add_argument("--num-labels", type=int, help="make a new head of that many classes")
    parser.add_argument("--mean", type=float, help="of the log-mels the model was trained on")
    parser.add_argument("--std", type=float, help="their standard deviation")
    arguments = parser.parse_args(argv)
    try:
        convert(arguments)
    except InputError as error:
        print(f"convert_torch_weights.py: {error}", file=sys.stderr)
        return 1
    return 0


def convert(arguments: argparse.Namespace) -> None:
    """Reads, says what was read, and writes."""
    output = arguments.output
    if output.exists():
        raise InputError(f"{output}: exists already; choose another output or remove it first")
    checkpoint = read(arguments)
    if arguments.to_torch:
        write_original(output, checkpoint)
    elif arguments.to_huggingface:
        write_huggingface(output, checkpoint)
    else:
        save_checkpoint(output, checkpoint)
    print(f"wrote {output}")


def read(arguments: argparse.Namespace) -> Checkpoint:
    """The source, with the flags' word on what it leaves open."""
    source = arguments.source
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    fields = {f: getattr(arguments, f) for f in GEOMETRY if getattr(arguments, f) is not None}
    if is_checkpoint(source) or run_steps(source):
        if fields:
            raise InputError(f"{source}: says itself what it is; leave --{'/--'.join(fields)} out")
        checkpoint = read_checkpoint(source)
    else:
        checkpoint, notes = read_torch_checkpoint(source, fields, fields)
        print("\n".join(notes))
    flags = {"num_labels": arguments.num_labels}
    checkpoint = change(checkpoint, {n: value for n, value in flags.items() if value is not None})
    flags = {"mean": arguments.mean, "std": arguments.std}
    statistics = {n: value for n, value in flags.items() if value is not None}
    extractor = dataclasses.replace(checkpoint.feature_extractor, **statistics)
    return checkpoint._replace(feature_extractor=extractor)


if __name__ == "__main__":
    sys.exit(main())
