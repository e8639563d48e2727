import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dmo"], "'dmo' is neither a configuration nor a .py or .json file; did you mean demo?"),
        (["mine.yaml"], "'mine.yaml' is neither a configuration nor"),
        (["typed.json"], "typed.json: batch_size is '8'; it must be a whole number"),
        (["kind.json"], "kind.json: data.kind is 'x'; it must be one of"),
        (["demo", "--batch-size", "0"], "batch_size is 0; it must be a whole number"),
    ],
)
def test_a_configuration_that_cannot_be_trained_is_not_printed(
    tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    Path("typed.json").write_text('{"batch_size": "8"}')
    Path("kind.json").write_text('{"data": {"kind": "x"}}')
    assert main(["train", *arguments, "--print-config"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"ast-jax: {message}")
    assert printed.err.count("\n") == 1


def test_help_imports_no_heavy_library():
    code = (
        "import sys\nfrom ast_jax.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('jax', 'tensorflow', 'torch', 'numpy') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.endswith("\n[]\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["classify", "", "--checkpoint", "x"],
        ["evaluate", "x", "--data", ""],
        ["convert", "", "x"],
        ["convert", "x", ""],
        ["prepare", "csv", "--source", "", "--output", "x"],
        ["stats", ""],
        ["show", "demo", "--output", ""],
    ],
)
def test_an_empty_path_is_not_the_current_folder(capsys, arguments):
    assert main(arguments) == 1
    assert capsys.readouterr().err.endswith(" is ''; give the path of a file or folder\n")


def test_show_keeps_an_existing_file(tmp_path, capsys):
    file = tmp_path / "x.png"
    file.touch()
    assert main(["show", "demo", "--output", str(file)]) == 1
    assert f"{file}: exists already; choose another" in capsys.readouterr().err


def test_an_unknown_shell_is_told(capsys):
    assert main(["--tyro-print-completion", "x"]) == 1
    message = "--tyro-print-completion is 'x'; give bash or zsh or tcsh or fish"
    assert message in capsys.readouterr().err


def test_help_ends_in_a_terminal_of_two_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "2")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "classify" in capsys.readouterr().out
