import io
import os
import pty
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ast_jax.audio import source
from ast_jax.audio.decode import load_audio
from ast_jax.audio.source import MAX_BYTES, open_source
from ast_jax.errors import InputError


@pytest.fixture
def sound(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 70000), 16000)
    return path


def message_of(file):
    with pytest.raises(InputError) as caught:
        load_audio(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def feed(path, content):
    """Writes to a pipe in a thread, as both wait for the other end."""

    def write():
        with open(path, "wb") as pipe:
            pipe.write(content)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def test_a_fifo_gives_what_the_file_gives(sound, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    thread = feed(tmp_path / "fifo", sound.read_bytes())
    np.testing.assert_array_equal(load_audio(tmp_path / "fifo"), load_audio(sound))
    thread.join()
    thread = feed(tmp_path / "fifo", b"")
    assert message_of(tmp_path / "fifo").endswith(
        "fifo ended before its first byte: write a sound file to it"
    )
    thread.join()


def test_a_pipe_by_its_number_gives_what_the_file_gives(sound):
    reading, writing = os.pipe()
    thread = feed(writing, sound.read_bytes())
    found = load_audio(f"/dev/fd/{reading}")
    thread.join()
    os.close(reading)
    np.testing.assert_array_equal(found, load_audio(sound))


def test_what_is_read_into_memory_is_bounded(sound, monkeypatch):
    assert MAX_BYTES == 256 * 2**20
    monkeypatch.setattr(source, "MAX_BYTES", 2**21)
    message = "has more than 2 MB, which are read into memory: save it as a file"
    assert f"/dev/zero {message}" in message_of("/dev/zero")
    assert message in message_of(io.BytesIO(bytes(2**22)))
    with sound.open("rb", buffering=0) as unbuffered:
        np.testing.assert_array_equal(load_audio(unbuffered), load_audio(sound))


def test_a_terminal_is_refused():
    controlling, terminal = pty.openpty()
    try:
        assert "is a terminal" in message_of(os.ttyname(terminal))
    finally:
        os.close(controlling)
        os.close(terminal)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"a\nb.wav", r"a\nb.wav"),
        (b"a\x1b[31mb.wav", r"a\x1b[31mb.wav"),
        (b"\xff\xfe.wav", r"\udcff\udcfe.wav"),
        ("é ☃ 犬.wav".encode(), "é ☃ 犬.wav"),
    ],
)
def test_any_name_is_read_and_shown_in_one_line(sound, tmp_path, name, shown):
    path = os.fsdecode(bytes(tmp_path) + b"/" + name)
    os.link(sound, path)
    np.testing.assert_array_equal(load_audio(path), load_audio(sound))
    assert open_source(path).name == str(tmp_path / shown)
    with open(path, "r+b") as file:
        file.truncate(1000)
    assert message_of(path).startswith(f"{tmp_path / shown} is truncated")


def test_a_broken_link_and_a_file_without_permission_are_named(sound, tmp_path, monkeypatch):
    (tmp_path / "link.wav").symlink_to(tmp_path / "none")
    assert "link.wav does not exist" in message_of(tmp_path / "link.wav")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # these tests may run as root
    assert "a.wav' cannot be read (Permission denied)" in message_of(sound)
