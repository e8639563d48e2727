import pytest

from ast_jax.data.sources.files import visible
from ast_jax.errors import InputError


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none: cannot be read \(No such file"):
        visible(tmp_path / "none")
