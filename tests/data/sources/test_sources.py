import pytest

from ast_jax.data.sources import SOURCES
from ast_jax.errors import InputError


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_refuses_a_missing_path(tmp_path, name):
    with pytest.raises(InputError, match="none") as raised:
        SOURCES[name](tmp_path / "none", None)
    assert len(str(raised.value).splitlines()) == 1
