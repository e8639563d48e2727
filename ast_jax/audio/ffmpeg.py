"""Decodes formats that libsndfile does not read, with ffmpeg where it is installed."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from threading import Timer
from typing import BinaryIO

import numpy as np

from ast_jax.audio.headers import is_truncated
from ast_jax.audio.source import Source
from ast_jax.audio.streams import InOrder, Stream, read_blocks
from ast_jax.errors import InputError, first_line

# The name of each format and its beginning. Others are not given to ffmpeg.
FORMATS = {
    "AAC": rb"\xff[\xf0\xf1\xf8\xf9]|ADIF",
    "AC-3": rb"\x0b\x77",
    "AMR": rb"#!AMR",
    "AVI": rb"RIFF....AVI ",
    "Flash video": rb"FLV\x01",
    "Matroska or WebM": rb"\x1a\x45\xdf\xa3",
    "Monkey's Audio": rb"MAC ",
    "MP4 or M4A": rb"....(?:ftyp|moov|mdat|wide|free)",
    "Speex or FLAC in Ogg": rb"OggS\x00\x02.{22}(?:Speex|\x7fFLAC)",
    "True Audio": rb"TTA1",
    "WavPack": rb"wvpk",
    "WAV of a rare codec": rb"RIFF....WAVEfmt .{4}(?![\x01\x03]\x00|\xfe\xff)",
    "WMA or WMV": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
}
DEMUXERS = "aac,ac3,amr,ape,asf,avi,eac3,flv,matroska,mov,ogg,tta,wav,wv"

MEMORY = 2**29  # bytes that ffmpeg may take
SECONDS, SECONDS_PER_MB = 30, 1  # that ffmpeg may take


def format_of(head: bytes) -> str:
    """Returns the name of the format that a file begins as, '' for none that ffmpeg is for."""
    for name, beginning in FORMATS.items():
        if re.match(beginning, head, re.DOTALL):
            return name
    return ""


def read_with_ffmpeg(source: Source, format: str) -> Iterator[Stream]:
    """Yields the first stream of sound of a file.

    ffmpeg may open this file alone, and take 512 MB, and 30 s and a second for each MB, without
    the time in which the blocks are used.

    Args:
        source: the file.
        format: its name, for messages.

    Raises:
        InputError: ffmpeg is not installed, reports an error or takes too long.
    """
    name = source.name
    with source.open() as file:
        if is_truncated(file):
            raise InputError(f"{name} is truncated: restore it, or convert what is left to WAV")
    program = shutil.which("ffmpeg")
    if not program:
        command = shlex.join(["ffmpeg", "-i", name, f"{os.path.splitext(name)[0]}.wav"])
        raise InputError(
            f"{name} is in a format that needs ffmpeg, {format}: install ffmpeg, or convert the "
            f"file where it is with {command}"
        )
    with contextlib.ExitStack() as stack:
        path = source.path
        if path is None:  # ffmpeg must seek in it
            copy = stack.enter_context(tempfile.NamedTemporaryFile())
            copy.write(source.content)
            copy.flush()
            path = os.fsencode(copy.name)
        errors = stack.enter_context(tempfile.TemporaryFile())
        process = stack.enter_context(_start(program, path, errors))
        stack.callback(process.kill)
        limit = SECONDS + SECONDS_PER_MB * (os.stat(path).st_size >> 20)
        timeout = _Timeout(process, limit)
        assert process.stdout is not None
        sound = None
        with timeout.waiting(), contextlib.suppress(RuntimeError):  # ffmpeg has written nothing
            sound = InOrder(process.stdout.fileno(), closefd=False)
        if sound:
            blocks = timeout.wait_for_each(read_blocks(sound, name))
            yield Stream(sound.samplerate, None, blocks)
        with timeout.waiting():
            status = process.wait()
        errors.seek(0)
        message = errors.read(2000).decode(errors="replace").strip()
        if timeout.is_over:
            raise InputError(f"{name} took ffmpeg more than {limit} s: convert it to WAV")
        if status or message or not sound:
            text = re.sub(r"^\[\S+ @ \w+\] ", "", message) or f"status {status}"
            reason = first_line(text)
            raise InputError(
                f"{name} cannot be read as {format}, it is damaged, or its sound is in an unknown "
                f"codec (ffmpeg: {reason}): restore it or convert it to WAV"
            )


class _Timeout:
    """Kills a process that is waited for too long; the time between waits does not count.

    Attributes:
        is_over: whether it was killed.
    """

    def __init__(self, process: subprocess.Popen[bytes], seconds: float):
        self.is_over = False
        self._process, self._seconds = process, seconds  # that are left

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time that the block takes."""
        started = time.monotonic()
        timer = Timer(max(0.0, self._seconds), self._kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._seconds -= time.monotonic() - started

    def _kill(self) -> None:
        self.is_over = True
        self._process.kill()

    def wait_for_each(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields blocks, and counts the time that reading them takes."""
        while True:
            with self.waiting():
                block = next(blocks, None)
            if block is None:
                return
            yield block


def _start(program: str, path: bytes, errors: BinaryIO) -> subprocess.Popen[bytes]:
    """Starts ffmpeg, which writes AU to its standard output."""
    process = subprocess.Popen(
        [
            *(program, "-nostdin", "-hide_banner", "-v", "error", "-threads", "1"),
            *("-protocol_whitelist", "file,pipe", "-format_whitelist", DEMUXERS),
            *("-i", b"file:" + path, "-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=os.environ | {"AV_LOG_FORCE_NOCOLOR": "1"},
    )
    if sys.platform == "linux":
        import resource

        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (MEMORY, MEMORY))
    return process
