import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ast_jax.errors import InputError
from ast_jax.io import (
    atomic_write,
    check_not_held,
    hold_folder,
    read_json,
    write_csv,
    write_json,
)


def write(path, text, error=None, replace=False):
    """Writes atomically, or fails with `error` when the text is written."""
    with atomic_write(path, replace=replace) as temporary:
        temporary.write_text(text)
        if error is not None:
            raise error


@pytest.mark.parametrize("replace", [True, False])
def test_a_file_is_written_with_its_parents(tmp_path, replace):
    file = tmp_path / "a" / "b" / "out"
    write(file, "new", replace=replace)
    assert file.read_text() == "new"
    assert list(file.parent.iterdir()) == [file]


def test_the_file_appears_after_the_block(tmp_path):
    with atomic_write(tmp_path / "out") as temporary:
        temporary.write_text("new")
        assert list(tmp_path.iterdir()) == [temporary]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_existing_file_is_replaced_on_request_by_a_complete_one(tmp_path):
    file = tmp_path / "out"
    file.write_text("old")
    with pytest.raises(InputError, match="out: exists already; choose another output"):
        write(file, "new")
    with pytest.raises(RuntimeError):
        write(file, "half", RuntimeError(), replace=True)
    assert file.read_text() == "old"
    write(file, "new", replace=True)
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_broken_link_is_not_replaced(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="link: exists already"):
        write(tmp_path / "link", "new")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_leaves_nothing(tmp_path, kind):
    def write_folder():
        with atomic_write(tmp_path / "a" / "b" / "out") as temporary:
            temporary.mkdir()
            (temporary / "half").write_text("half")
            raise kind

    with pytest.raises(kind):
        write_folder()
    assert list(tmp_path.iterdir()) == []


def test_cleanup_keeps_other_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "other").touch()
    with pytest.raises(RuntimeError):
        write(tmp_path / "a" / "[o]*", "half", RuntimeError())
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "other"]


def test_a_failed_write_names_the_file_and_the_reason(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/out: cannot be written \(File exists\); free some"):
        write(tmp_path / "file" / "out", "new")
    full = OSError(28, "No space left on device", "elsewhere")
    with pytest.raises(InputError, match=r"out: cannot be written \(No space left on device\)"):
        write(tmp_path / "out", "half", full)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_json_round_trips(tmp_path):
    content = {"café": [1, 0.1, None, True, os.fsdecode(b"no UTF-8: \xff")]}
    for _ in range(2):
        write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    assert "café" in (tmp_path / "x.json").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))
    assert read_json(tmp_path / "x.json") == content


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000], ids=range(4))
def test_malformed_json_is_named(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(
        InputError, match=r"x\.json: cannot be read as JSON \(.*; repair or replace"
    ):
        read_json(tmp_path / "x.json")


def test_a_missing_json_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"x\.json: no such file$"):
        read_json(tmp_path / "x.json")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\); give a readable"):
        read_json(tmp_path)


def test_a_file_without_permission_is_not_told_as_damaged(tmp_path, monkeypatch):
    (tmp_path / "x.json").write_text("{}")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)  # as for a user, not root
    with pytest.raises(InputError, match=r"x\.json: cannot be read \(Permission denied\); make it"):
        read_json(tmp_path / "x.json")


def test_a_byte_order_mark_in_json_is_skipped(tmp_path):
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "x.json") == {"a": 1}


def test_a_csv_file_has_a_column_per_field(tmp_path):
    write_csv(tmp_path / "x.csv", [{"a": 1, "b": None}, {"a": 'x, "y"', "c": 0.5}])
    assert (tmp_path / "x.csv").read_text() == 'a,b,c\n1,,\n"x, ""y""",,0.5\n'


def test_a_csv_file_keeps_line_breaks_in_values(tmp_path):
    row = {"clip": "a\nb\rc\r\nd.wav", "e": "f"}
    write_csv(tmp_path / "x.csv", [row])
    with (tmp_path / "x.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [row]


def test_a_csv_file_escapes_names_that_are_not_utf8(tmp_path):
    write_csv(tmp_path / "x.csv", [{"clip": os.fsdecode(b"caf\xe9.wav")}])
    assert (tmp_path / "x.csv").read_text() == "clip\ncaf\\udce9.wav\n"


def test_a_pipe_a_device_and_a_huge_file_are_not_read_as_json(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(InputError, match=f"^{file}: is a pipe or a device, not a file"):
            read_json(file)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="sparse: has 1048576 MiB, and 64 MiB is the most"):
        read_json(tmp_path / "sparse")


HOLD = """
import os, signal, sys
from pathlib import Path
from ast_jax.io import hold_folder
with hold_folder(Path(sys.argv[1]), "x"):
    print(flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_by_one_process_until_that_is_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    ) as holder:
        holder.stdout.readline()
        message = rf"^{tmp_path}: a run \(process {holder.pid} on \S+\) is writing there; wait"
        with pytest.raises(InputError, match=message):
            check_not_held(tmp_path, "a run")
        holder.kill()
    with hold_folder(tmp_path, "a run"):
        assert os.listdir(tmp_path) == [".lock"]
