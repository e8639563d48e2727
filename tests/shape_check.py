"""Checks the shapes in the package's signatures while the tests run.

`conftest.py` has jaxtyping's import hook pass every function of the package to `typechecker`.
"""

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def typechecker(function: Callable) -> Callable:
    """Returns the function with its annotated shapes checked; other types are left to mypy."""
    hints = function.__annotations__
    shapes = {name: hint for name, hint in hints.items() if has_shape(hint)}
    if not shapes:
        return function
    function.__annotations__ = shapes
    return beartype(function)


def has_shape(hint: Any) -> bool:
    """Returns whether a type, or a part of it, is an array type with a shape."""
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(has_shape(part) for part in get_args(hint))
