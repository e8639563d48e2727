"""Types of the commands' arguments."""

import os
from typing import Annotated, Any, Literal

import tyro

from ast_jax.errors import InputError

CORES = os.cpu_count() or 1
Dtype = Literal["float32", "bfloat16"] | None
MaskPadding = bool | None


def _at_least(low: int) -> Any:
    def parse(words: list[str]) -> int:
        value = int(words[0])
        if value < low:
            raise ValueError(f"{value} is not {low} or more")
        return value

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


NonNegative = Annotated[int, _at_least(0)]
Positive = Annotated[int, _at_least(1)]


def dtype_change(dtype: Dtype) -> dict[str, Any]:
    """Returns the change of a checkpoint's configuration that `--dtype` asks for."""
    return {"dtype": dtype} if dtype else {}


def mask_change(mask_padding: MaskPadding) -> dict[str, Any]:
    """Returns the change of a checkpoint's configuration that `--mask-padding` asks for."""
    return {} if mask_padding is None else {"mask_padding": mask_padding}


def check_given(**paths: str) -> None:
    """Raises InputError if a path is '', which Python takes for the current folder."""
    for name, path in paths.items():
        if not path:
            raise InputError(f"{name} is ''; give the path of a file or folder")
