import pytest

from ast_jax.errors import first_line, nearest, quoted


def test_nearest_is_the_closest_name_or_all_that_a_message_can_hold():
    names = {"time_stride", "max_length", "hidden_size"}
    assert nearest("time_strid", names) == "time_stride"
    assert nearest("x", names) == "hidden_size, max_length, time_stride"
    assert nearest("x", [f"{i:03}" for i in range(527)]).endswith("038, 039 and 487 more")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("a sentence."), "a sentence"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 300), "x" * 200),
    ],
)
def test_first_line_is_one_short_line(error, line):
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "'a b'"),
        (3, "'3'"),
        ("a\nb\0", r"'a\nb\x00'"),
        ("é☃", "'é☃'"),
        ("x" * 99, "'" + "x" * 79 + "…'"),
    ],
)
def test_quoted_is_one_short_line(value, text):
    assert quoted(value) == text
