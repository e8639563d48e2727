"""The `ast-jax` command: classifies sounds, evaluates checkpoints, and prepares data sets."""

import argparse
import sys
from collections.abc import Sequence

import ast_jax
from ast_jax.cli import classify, evaluate, prepare, show, stats
from ast_jax.cli.command import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, 1 for input that cannot be used."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse does not collect the positional arguments that follow a flag.
    if arguments.command == "show" and not any(word.startswith("-") for word in rest):
        arguments.changes += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return run_command("ast-jax", lambda: arguments.run(arguments), arguments.subject(arguments))


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands; no command imports JAX or TensorFlow before it runs.

    Each command sets the defaults `run(arguments)` and `subject(arguments)`, see `run_command`.
    """
    parser = argparse.ArgumentParser(prog="ast-jax", description=__doc__)
    parser.add_argument("--version", action="version", version=ast_jax.__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    classify.add_arguments(commands.add_parser("classify", help="label sound files"))
    evaluate.add_arguments(
        commands.add_parser("evaluate", help="score checkpoints on labeled sounds")
    )
    prepare.add_arguments(
        commands.add_parser("prepare", help="decode a data set once, for training")
    )
    stats.add_arguments(commands.add_parser("stats", help="measure a prepared set's log-mels"))
    show.add_arguments(commands.add_parser("show", help="draw a training batch"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
