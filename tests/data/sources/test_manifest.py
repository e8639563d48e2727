from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.data.sources.manifest import check_text
from ast_jax.errors import InputError, quoted


@settings(deadline=None)
@given(value=st.text(st.characters()))  # includes lone surrogates
def test_accepted_and_quoted_text_is_one_line_of_utf8(value):
    assert len(quoted(value).encode().splitlines()) == 1
    assert len(quoted(value)) < 1000
    message = ""
    try:
        check_text(value, "path", "a.csv, line 1")
    except InputError as error:
        message = str(error)
    assert len((message or value).encode().splitlines()) == 1
    assert len((message or value).splitlines()) == 1
