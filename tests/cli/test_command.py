import argparse

import pytest

from ast_jax.cli.command import INTERRUPTED, positive, run_command
from ast_jax.errors import InputError


def fails(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("a.wav: is empty"), 1, "tool: a.wav: is empty\n"),
        (OSError(28, "No space left on device", "out/x"), 1, "tool: out/x: No space left on d"),
        (OSError(28, "No space left on device"), 1, "tool: subject: No space left on device\n"),
        (OSError("strange"), 1, "tool: subject: strange\n"),
        (KeyboardInterrupt(), INTERRUPTED, ""),
    ],
)
def test_an_input_error_prints_one_sentence_and_sets_the_status(capsys, error, status, message):
    assert run_command("tool", fails(error), "subject") == status
    printed = capsys.readouterr()
    assert printed.err.startswith(message)
    assert printed.err.count("\n") == bool(message)
    assert not printed.out


def test_other_errors_keep_their_traceback():
    with pytest.raises(ValueError, match="a fault"):
        run_command("tool", fails(ValueError("a fault")), "subject")


@pytest.mark.parametrize("status", [None, 0, 1, 3])
def test_the_functions_status_is_the_commands(status):
    assert run_command("tool", lambda: status, "subject") == (status or 0)


@pytest.mark.parametrize("text", ["0", "-3"])
def test_a_count_below_one_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"{text} is not 1 or more"):
        positive(text)


def test_a_count_is_an_integer():
    assert positive("7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        positive("1.5")
