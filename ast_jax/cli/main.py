"""The `ast-jax` command: trains, classifies, explains, evaluates, converts and prepares.

What takes time to import is imported in functions, so that Ctrl-C then ends without a traceback.
"""

import os
import shutil
import sys
from collections.abc import Callable, Sequence

import ast_jax
from ast_jax.cli.command import flush_and_exit, keeping_interrupts, run_command
from ast_jax.errors import INTERRUPTED, InputError, quoted

MIN_WIDTH = 40  # of the help in characters, which tyro never finishes for a width of 2
SHELLS = ("bash", "zsh", "tcsh", "fish")  # that tyro completes commands for


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, 1 for input that cannot be used."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == ["--version"]:
        print(ast_jax.__version__)
        return 0
    with keeping_interrupts():
        return run_command(lambda: parse_and_run(argv))


def parse_and_run(argv: list[str]) -> int:
    """Parses the arguments and runs the command; exits with status 2 if they are malformed."""
    import tyro

    from ast_jax.cli.configs import option_value

    if shutil.get_terminal_size().columns < MIN_WIDTH:
        os.environ["COLUMNS"] = str(MIN_WIDTH)
    shell = option_value(argv, "--tyro-print-completion")
    if shell is not None and shell not in SHELLS:
        raise InputError(f"--tyro-print-completion is {quoted(shell)}; give {' or '.join(SHELLS)}")
    return tyro.extras.subcommand_cli_from_dict(
        commands(argv),
        prog="ast-jax",
        description=f"The Audio Spectrogram Transformer in JAX, version {ast_jax.__version__}.",
        args=argv or ["--help"],
        config=(tyro.conf.AvoidSubcommands, tyro.conf.CascadeSubcommandArgs),
    )


def commands(argv: Sequence[str]) -> dict[str, Callable[..., int]]:
    """Returns the commands; none imports JAX or TensorFlow before it runs.

    Configurations are read for the commands that take one, and for shell completion.
    """
    from ast_jax.cli.classify import classify
    from ast_jax.cli.configs import config_type
    from ast_jax.cli.convert import convert
    from ast_jax.cli.embed import embed
    from ast_jax.cli.evaluate import evaluate
    from ast_jax.cli.explain import explain
    from ast_jax.cli.prepare import prepare
    from ast_jax.cli.probe import probe
    from ast_jax.cli.show import show_command
    from ast_jax.cli.stats import stats
    from ast_jax.cli.stream import stream
    from ast_jax.cli.train import train_command
    from ast_jax.config import TrainConfig

    if any(word.startswith("--tyro-") for word in argv):
        config = config_type(())
    elif argv[:1] in (["train"], ["show"]):
        config = config_type(argv[1:])
    else:
        config = TrainConfig
    return {
        "train": train_command(config),
        "classify": classify,
        "stream": stream,
        "embed": embed,
        "probe": probe,
        "explain": explain,
        "evaluate": evaluate,
        "convert": convert,
        "prepare": prepare,
        "stats": stats,
        "show": show_command(config),
    }


def run(*command: str) -> None:
    """Runs `ast-jax`, with the words of a command before the arguments, and exits."""
    status = main([*command, *sys.argv[1:]])
    if status == INTERRUPTED:
        flush_and_exit(status)  # XLA crashes at Python's exit if a thread of it still compiles
    sys.exit(status)


if __name__ == "__main__":
    run()
