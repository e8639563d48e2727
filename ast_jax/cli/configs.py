"""The CONFIG argument of `ast-jax train` and `ast-jax show`: a configuration and its fields."""

import ast
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ast_jax.config_files import builtin_configs, data_of_kind, load_config
from ast_jax.errors import InputError, nearest, quoted

# An option beside the fields, as `data` is another dataclass for each kind.
DataKind = Annotated[
    Literal["synthetic", "folder", "esc50", "prepared", "strong"] | None,
    tyro.conf.arg(name="data.kind", help_behavior_hint="(default: the configuration's)"),
]


def config_type(argv: Sequence[str]) -> Any:
    """Returns the type of CONFIG for tyro: a subcommand for each configuration.

    Args:
        argv: of the command. A file that comes first becomes a subcommand, too; `--data.kind`
            replaces the data of all.

    Raises:
        InputError: the file cannot be used, there is no such kind of data, or the arguments are
            those of earlier versions.
    """
    if any(word.startswith(("--config=", "--config.")) for word in argv):
        raise InputError(
            "--config is no longer an option; give the configuration's name or file first and its "
            "fields as they are called, such as ast-jax train demo --optimizer.learning-rate 1e-4"
        )
    files = builtin_configs()
    first = argv[0] if argv else "-"
    if Path(first).suffix.lower() in (".py", ".json"):
        files = {first: Path(first)}
    elif first in files:
        files = {first: files[first]}
    elif not first.startswith("-"):  # an option, such as --help
        raise InputError(
            f"{quoted(first)} is neither a configuration nor a .py or .json file; did you mean "
            f"{nearest(first, files)}?"
        )
    kind = option_value(argv, "--data.kind")
    configs, descriptions = {}, {}
    for name, path in files.items():
        config = load_config(path)
        if kind is not None:
            config.data = data_of_kind(kind, like=config.data)
        configs[name] = config
        descriptions[name] = first_paragraph(path)
    union = tyro.extras.subcommand_type_from_defaults(configs, descriptions, prefix_names=False)
    return Annotated[union, tyro.conf.arg(name="", metavar="CONFIG")]


def option_value(argv: Sequence[str], option: str) -> str | None:
    """Returns the last value that the arguments give an option; None for none."""
    found = None
    for word, following in zip_longest(argv, argv[1:], fillvalue=""):
        if word == option:
            found = following
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


def first_paragraph(path: Path) -> str:
    """Returns the first paragraph of a Python file's docstring; '' for other files."""
    if path.suffix != ".py":
        return ""
    text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    return " ".join(text.partition("\n\n")[0].split())
