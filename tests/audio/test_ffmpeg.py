import io
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ast_jax.audio import ffmpeg
from ast_jax.audio.decode import load_audio, open_recording, read_recording
from ast_jax.audio.headers import ASF_FILE, ASF_HEADER, is_truncated
from ast_jax.errors import InputError

AAC = Path(__file__).parent / "sounds" / "aac.m4a"
needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")


def message_of(file):
    with pytest.raises(InputError) as caught:
        load_audio(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@needs_ffmpeg
def test_a_format_that_libsndfile_lacks_is_read_with_ffmpeg():
    recording = read_recording(AAC, 16000)
    assert (recording.waveform.shape, recording.seconds) == ((20480,), 1.28)
    assert 0.3 < recording.peak < 0.5
    np.testing.assert_array_equal(load_audio(AAC.read_bytes()), recording.waveform)
    np.testing.assert_array_equal(load_audio(AAC, max_samples=5000), recording.waveform[:5000])


@needs_ffmpeg
def test_what_ffmpeg_reports_is_refused():
    content = AAC.read_bytes()
    assert message_of(content[:5000]).startswith(
        "the sound given as bytes cannot be read as MP4 or M4A, it is damaged, or its sound is in "
        "an unknown codec (ffmpeg: moov atom not found): restore it"
    )
    assert "restore it" in message_of(content[:-300])


def test_without_ffmpeg_the_format_and_the_command_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = shutil.copy(AAC, tmp_path / "a b.m4a")
    assert message_of(path) == (
        f"{path} is in a format that needs ffmpeg, MP4 or M4A: install ffmpeg, or convert the file "
        f"where it is with ffmpeg -i '{path}' '{tmp_path}/a b.wav'"
    )


BEGINNINGS = {
    "AAC": b"\xff\xf1L@",
    "AMR": b"#!AMR\n",
    "AVI": b"RIFF\0\1\0\0AVI LIST",
    "Matroska or WebM": b"\x1a\x45\xdf\xa3\x9f",
    "MP4 or M4A": b"\0\0\0\x1cftypM4A ",
    "Speex or FLAC in Ogg": b"OggS\0\2" + bytes(22) + b"Speex   ",
    "WAV of a rare codec": b"RIFF\0\1\0\0WAVEfmt \x12\0\0\0\x61\1\1\0",
    "WMA or WMV": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    "": b"#EXTM3U\nhttp://example.org/a.aac",
}


@pytest.mark.parametrize("format", BEGINNINGS)
def test_formats_are_known_by_their_beginning(format):
    assert ffmpeg.format_of(BEGINNINGS[format] + bytes(40)) == format


def test_a_wav_that_libsndfile_reads_is_not_given_to_ffmpeg(tmp_path):
    for subtype in ("PCM_16", "FLOAT", "PCM_24"):
        soundfile.write(tmp_path / "a.wav", np.zeros(999), 16000, subtype)
        assert not ffmpeg.format_of((tmp_path / "a.wav").read_bytes()[:64])


# ---- limits, with a program in place of ffmpeg


@pytest.fixture
def program(monkeypatch, tmp_path):
    """Returns a function that makes a shell script ffmpeg."""

    def make(script):
        path = tmp_path / "bin" / "ffmpeg"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")

    return make


def test_ffmpeg_may_read_this_file_alone(program, tmp_path):
    program(f'echo "$@" > {tmp_path}/arguments')
    assert "(ffmpeg: status 0)" in message_of(AAC)
    arguments = (tmp_path / "arguments").read_text()
    assert "-protocol_whitelist file,pipe " in arguments
    assert f" -i file:{AAC} " in arguments
    (demuxers,) = arguments.split("-format_whitelist ")[1].split()[:1]
    assert not {"hls", "concat", "dash", "lavfi"} & set(demuxers.split(","))

    (tmp_path / "arguments").unlink()
    (tmp_path / "a.m4a").write_bytes(b"#EXTM3U\nfile:///etc/passwd\n" * 9)
    assert "cannot be read as audio" in message_of(tmp_path / "a.m4a")
    assert not (tmp_path / "arguments").exists()


def test_ffmpeg_that_takes_too_long_is_ended(program, monkeypatch):
    program("exec sleep 60")
    monkeypatch.setattr(ffmpeg, "SECONDS", 0.2)
    assert message_of(AAC).endswith("took ffmpeg more than 0.2 s: convert it to WAV")


def test_the_time_in_which_blocks_are_used_does_not_count(program, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.au", np.full(200000, 0.5), 16000, "FLOAT")
    program(f"cat {tmp_path}/a.au; sleep 0.1")
    monkeypatch.setattr(ffmpeg, "SECONDS", 1)
    used = 0
    with open_recording(AAC, 16000) as stream:
        for block in stream:
            time.sleep(0.3)
            used += len(block)
    assert used == 200000


def test_the_memory_of_ffmpeg_is_limited(program):
    program("sleep 0.2; ulimit -d >&2; exit 1")
    assert f"(ffmpeg: {ffmpeg.MEMORY >> 10})" in message_of(AAC)


def test_ffmpeg_ends_when_enough_is_read(program, tmp_path):
    soundfile.write(tmp_path / "a.au", np.full(70000, 0.5), 16000, "FLOAT")
    content = (tmp_path / "a.au").read_bytes()
    (tmp_path / "a.au").write_bytes(content[:8] + b"\xff" * 4 + content[12:])
    program(f"echo $$ > {tmp_path}/pid; cat {tmp_path}/a.au; exec cat /dev/zero")
    recording = read_recording(AAC, 16000, max_samples=50000)
    assert len(recording.waveform) == 50000
    assert recording.seconds is None
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.05)
    raise AssertionError("the program still runs")


ENDS = {
    "WAV": b"RIFF\xff\xff\xff\xffWAVEfmt \x04\0\0\0\x45\0\1\0data\x08\0\0\0" + bytes(8),
    "AVI": b"RIFF\x1c\0\0\0AVI LIST\x10\0\0\0" + bytes(16),
    "Ogg": b"OggS\0\2" + bytes(22) + b"Speex   " + b"OggS\0\4" + bytes(20) + b"\1\3abc",
    "WMA": ASF_HEADER + bytes(8) + ASF_FILE + bytes(24) + b"\x75" + bytes(52),
}


@pytest.mark.parametrize("content", ENDS.values(), ids=ENDS)
def test_a_missing_end_is_seen_where_ffmpeg_sees_none(content):
    assert not is_truncated(io.BytesIO(content))
    assert is_truncated(io.BytesIO(content[:-1]))
