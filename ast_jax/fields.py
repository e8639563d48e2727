"""Checks fields and arguments against their annotated types, ranges and choices."""

import dataclasses
import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from ast_jax.errors import InputError, nearest

MAX_INT = 2**31 - 1  # counts become int32 on the devices


class Range(NamedTuple):
    """The values that a number may have, as `Annotated[int, Range(1)]`; both ends are included."""

    low: float
    high: float = MAX_INT


def check_fields(config: Any, prefix: str = "") -> None:
    """Checks every field of a dataclass and of the dataclasses in it.

    Args:
        config: an instance of a dataclass, annotated with `bool`, `str`, `int`, `float`,
            `Literal[…]`, a dataclass, or a union of these and None; numbers with a `Range`.
        prefix: of the fields' names in messages, such as "optimizer.".

    Raises:
        InputError: a field has a wrong type, or a value out of its range or choices.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        check_value(prefix + field.name, getattr(config, field.name), hints[field.name])


def check_names(kind: type, names: Iterable[str]) -> None:
    """Raises InputError if a name is not that of a field of a dataclass."""
    fields = [field.name for field in dataclasses.fields(kind)]
    for name in names:
        if name not in fields:
            raise InputError(
                f"'{name}' is no field of {kind.__name__}; did you mean {nearest(name, fields)}?"
            )


def check_value(name: str, value: Any, hint: Any) -> None:
    """Checks one value against an annotation, see `check_fields`.

    Raises:
        InputError: it has a wrong type, or is out of its range or choices.
    """
    bounds = None
    if get_origin(hint) is Annotated:
        hint, bounds = get_args(hint)[:2]
    is_union = get_origin(hint) in (Union, types.UnionType)
    allowed = get_args(hint) if is_union else (hint,)
    if value is None and type(None) in allowed:
        return
    kind = allowed[0]
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        # `in` compares, which arrays do not do.
        if not isinstance(value, str) or value not in choices:
            raise InputError(f"{name} is {_show(value)}; it must be one of {', '.join(choices)}")
    elif dataclasses.is_dataclass(kind):
        if type(value) not in allowed:
            classes = " or ".join(each.__name__ for each in allowed)
            raise InputError(f"{name} is {_show(value)}; it must be a {classes}")
        if not hasattr(value, "validate"):
            return check_fields(value, f"{name}.")
        try:
            value.validate()
        except InputError as error:  # its messages begin with the field's name
            raise InputError(f"{name}.{error}") from None
    elif kind is bool:
        if not isinstance(value, bool):
            raise InputError(f"{name} is {_show(value)}; it must be True or False")
    elif kind is str:
        if not isinstance(value, str) or "\0" in value or not is_unicode(value):
            raise InputError(f"{name} is {_show(value)}; it must be valid Unicode without NUL")
    elif get_origin(kind) is not dict:  # which the dataclass checks itself
        _check_number(name, value, kind, bounds or Range(-MAX_INT))


def _check_number(name: str, value: Any, kind: type, bounds: Range) -> None:
    accepted = (int, float) if kind is float else int
    number = isinstance(value, accepted) and not isinstance(value, bool)
    if not number or not bounds.low <= value <= bounds.high:  # NaN is not
        what = "a number" if kind is float else "a whole number"
        wanted = f"{what} from {bounds.low:.10g} to {bounds.high:.10g}"
        if bounds.low == bounds.high:
            wanted = f"{bounds.low:.10g}"
        raise InputError(f"{name} is {_show(value)}; it must be {wanted}")


def is_unicode(text: str) -> bool:
    """Returns whether UTF-8 can encode a text: not if it has bytes of another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _show(value: Any) -> str:
    """Returns a value for a message, cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of more than 4,300 digits
        text = "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."
