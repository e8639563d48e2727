import math
import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pytest

from ast_jax.errors import InputError
from ast_jax.fields import Range, check_fields


@dataclass
class Inner:
    rate: Annotated[float | None, Range(0, 1)] = None


@dataclass
class Other:
    name: str = ""


@dataclass
class Outer:
    count: Annotated[int, Range(1, 9)] = 3
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    one: Annotated[float, Range(1, 1)] = 1.0
    inner: Inner = field(default_factory=Inner)
    either: Inner | Other = field(default_factory=Other)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", 0, "count is 0; it must be a whole number from 1 to 9"),
        ("count", 10, "count is 10; it must be a whole number from 1 to 9"),
        ("count", 1.0, "count is 1.0; it must be a whole number from 1 to 9"),
        ("count", True, "count is True; it must be a whole number from 1 to 9"),
        ("count", None, "count is None; it must be a whole number from 1 to 9"),
        pytest.param("count", 10**5000, "count is a huge number; it must be", id="huge"),
        ("flag", 1, "flag is 1; it must be True or False"),
        ("kind", "c", "kind is 'c'; it must be one of a, b"),
        ("kind", np.array(["a", "b"]), "kind is array("),
        ("one", 2.0, "one is 2.0; it must be 1"),
        ("inner", None, "inner is None; it must be a Inner"),
        ("inner", {"rate": 1}, "inner is {'rate': 1}; it must be a Inner"),
        ("inner", Inner(2), "inner.rate is 2; it must be a number from 0 to 1"),
        ("inner", Inner(math.nan), "inner.rate is nan; it must be a number from 0 to 1"),
        ("inner", Inner("1"), "inner.rate is '1'; it must be a number from 0 to 1"),
        ("either", Outer(), "it must be a Inner or Other"),
        ("either", Other(3), "either.name is 3; it must be valid Unicode without NUL"),
        ("either", Other("\udcff"), "it must be valid Unicode without NUL"),
        ("either", Other("\0"), r"either.name is '\x00'; it must be valid Unicode without NUL"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_may_be(name, value, message):
    with pytest.raises(InputError, match=re.escape(message)):
        check_fields(Outer(**{name: value}))


@pytest.mark.parametrize(
    "config", [Outer(), Outer(count=9, inner=Inner(0)), Outer(either=Inner(1.0), kind="b")]
)
def test_values_within_their_ranges_pass(config):
    check_fields(config)
