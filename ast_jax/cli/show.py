"""`ast-jax show`: draws a training batch as the model sees it."""

import argparse
from pathlib import Path

from ast_jax.cli.command import non_negative
from ast_jax.errors import InputError
from ast_jax.storage import check_local


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `ast-jax show`."""
    parser.add_argument("config", metavar="CONFIG", help="a file such as configs/esc10.py")
    parser.add_argument(
        "changes", nargs="*", metavar="FIELD=VALUE", help="such as data.dir=prepared"
    )
    parser.add_argument("--output", required=True, metavar="PNG", help="the file to write")
    parser.add_argument("--step", type=non_negative, default=0, help="the training step (0)")
    parser.set_defaults(run=run, subject=lambda arguments: arguments.output)


def run(arguments: argparse.Namespace) -> None:
    """Draws a batch of a configuration."""
    from ast_jax.config import load_config
    from ast_jax.training.plot_batch import plot_batch

    check_local(arguments.output)
    output = Path(arguments.output)
    if output.suffix.lower() != ".png":
        raise InputError(f"{output}: not a PNG file name; let it end in .png")
    plot_batch(load_config(arguments.config, arguments.changes), output, arguments.step)
    print(f"wrote {output}")
