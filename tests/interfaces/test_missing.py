import importlib
import sys

import pytest

from ast_jax.errors import InputError
from ast_jax.interfaces import hear


@pytest.mark.parametrize(
    ("name", "imported"), [("mteb", "mteb.models"), ("hoplite", "perch_hoplite.zoo")]
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, name, imported):
    monkeypatch.setitem(sys.modules, imported, None)
    monkeypatch.delitem(sys.modules, f"ast_jax.interfaces.{name}", raising=False)
    with pytest.raises(InputError, match=rf"pip install 'ast-jax\[{name}\]'"):
        importlib.import_module(f"ast_jax.interfaces.{name}")


def test_hear_without_pytorch_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"HEAR needs PyTorch, .* pip install torch"):
        hear.load_model("checkpoint")
