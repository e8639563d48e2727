import subprocess
import sys

import pytest

from ast_jax.cli.main import main


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["classify"],
        ["classify", "x.wav"],
        ["classify", "x.wav", "--checkpoint", "y", "--top-k", "0"],
        ["classify", "x.wav", "--checkpoint", "y", "--top-k", "many"],
        ["clasify", "x.wav", "--checkpoint", "y"],
    ],
)
def test_invalid_arguments_print_the_usage(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: ast-jax")


def test_building_the_parser_imports_no_heavy_library():
    code = (
        "import sys; from ast_jax.cli.main import build_parser; build_parser().format_help(); "
        "print([m for m in ('jax', 'tensorflow', 'torch', 'numpy', 'rich') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
