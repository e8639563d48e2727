import gc
import io
import signal
import subprocess
import sys
import time

import pytest

from ast_jax.cli.command import INTERRUPTED, keeping_interrupts, naming, run_command
from ast_jax.errors import InputError


def fails(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("a.wav: is empty"), 1, "ast-jax: a.wav: is empty\n"),
        (OSError(28, "No space left on device", "out/x"), 1, "ast-jax: out/x: No space left on d"),
        (OSError(28, "No space left on device"), 1, "ast-jax: No space left on device\n"),
        (OSError("strange"), 1, "ast-jax: strange\n"),
        (KeyboardInterrupt(), INTERRUPTED, ""),
    ],
)
def test_an_input_error_prints_one_sentence_and_sets_the_status(capsys, error, status, message):
    assert run_command(fails(error)) == status
    printed = capsys.readouterr()
    assert printed.err.startswith(message)
    assert printed.err.count("\n") == bool(message)
    assert not printed.out


@pytest.mark.parametrize("closed", [False, True])
def test_output_that_stdout_cannot_take_is_escaped_or_ignored(monkeypatch, closed):
    written = io.BytesIO()
    stdout = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", None if closed else stdout)
    assert run_command(lambda: sys.stdout.write("naïve …\n") and 0) == 0
    stdout.flush()
    assert written.getvalue() == (b"" if closed else b"na\\xefve \\u2026\n")


def test_other_errors_keep_their_traceback():
    with pytest.raises(ValueError, match="a fault"):
        run_command(fails(ValueError("a fault")))


@pytest.mark.parametrize("status", [None, 0, 1, 3])
def test_the_functions_status_is_the_commands(status):
    assert run_command(lambda: status) == (status or 0)


def test_a_system_error_that_names_no_file_gets_the_outputs_name():
    with pytest.raises(InputError, match=r"^out: No space left on device$"), naming("out"):
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="x"), naming("out"):
        raise OSError(28, "No space left on device", "x")


def test_an_interrupt_in_a_callback_of_the_garbage_collector_is_not_lost(handled):
    def interrupted_callback(phase, info):
        gc.callbacks.remove(interrupted_callback)
        signal.raise_signal(signal.SIGINT)

    def action():
        with keeping_interrupts():
            gc.callbacks.append(interrupted_callback)
            gc.collect()
            assert interrupted_callback not in gc.callbacks
            time.sleep(20)

    assert run_command(action) == INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is handled


def test_a_hook_that_a_library_installs_meanwhile_stays(handled, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", before := sys.unraisablehook)
    with keeping_interrupts():
        pass
    assert sys.unraisablehook is before
    with keeping_interrupts():
        sys.unraisablehook = library = lambda unraisable: None
    assert sys.unraisablehook is library


def test_an_interrupt_during_an_import_ends_the_process_without_a_traceback(tmp_path):
    (tmp_path / "slow_extension.py").write_text("import signal; signal.raise_signal(signal.SIGINT)")
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.path.append({str(tmp_path)!r})\n"
        "from ast_jax.cli.command import keeping_interrupts\n"
        "with keeping_interrupts():\n"
        "    print('importing')\n"
        "    import slow_extension\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "importing\n", "")
