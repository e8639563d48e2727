import subprocess
import sys

import pytest

from ast_jax.cli.main import main


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["classify"],
        ["classify", "x.wav"],
        ["classify", "x.wav", "--checkpoint", "y", "--top-k", "0"],
        ["classify", "x.wav", "--checkpoint", "y", "--top-k", "many"],
        ["clasify", "x.wav", "--checkpoint", "y"],
    ],
)
def test_invalid_arguments_are_told_with_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "ast-jax" in capsys.readouterr().err


def test_help_imports_no_heavy_library():
    code = (
        "import sys\nfrom ast_jax.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('jax', 'tensorflow', 'torch', 'numpy') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.endswith("\n[]\n")
