"""Reads headers of sound files for what libsndfile ignores: lengths, and where streams begin."""

import io
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from ast_jax.errors import InputError

# Sizes in headers of files that were written to a pipe: sox writes this, ffmpeg 0xFFFFFFFF.
UNKNOWN_SIZE = 0x7FFFF000

# The first frame of an MP3 may be a header with the number of frames, by Xing, LAME or Fraunhofer.
MP3_HEADER = re.compile(
    rb"\xff[\xe2-\xff]..(?:(?:.{9}|.{17}|.{32})(?:..)?(?:Xing|Info)|.{32}VBRI)", re.DOTALL
)
MP3_START = re.compile(rb"ID3[\x02-\x04]|\xff[\xe2\xe3\xf2-\xf7\xfa-\xff]")

OGG_DATA = re.compile(rb"OggS\x00[\x00\x01\x04\x05]")  # a page that is not a stream's first
OGG_FIRST = re.compile(rb"OggS\x00[\x02\x06]")


ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")  # of WMA
ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # its object with the file's size

# The first bytes in formats of which decoders read the first file alone.
FIRST_BYTES = [
    re.compile(first, re.DOTALL)
    for first in (
        rb"fLaC\x00\x00\x00\x22", rb"\.snd\x00\x00\x00", rb"caff\x00\x01\x00\x00",
        rb"RF64....WAVE", rb"\x00\x00\x00.ftyp", rb"TTA1\x01\x00",
        rb"FLV\x01.\x00\x00\x00\x09", re.escape(ASF_HEADER),
    )
]  # fmt: skip


def mp3_states_length(file: BinaryIO, start: int) -> bool:
    """Returns whether the MP3 stream that starts there has a header with its length."""
    file.seek(skip_id3(file, start))
    return MP3_HEADER.search(file.read(4096)) is not None


def skip_id3(file: BinaryIO, start: int) -> int:
    """Returns the position behind an ID3 tag that starts there, `start` without one."""
    file.seek(start)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return start
    length = sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    return start + 10 + length


def ogg_bounds(file: BinaryIO) -> list[int]:
    """Returns the bounds of the streams that follow each other in an Ogg file."""
    bounds: list[int] = []
    start: int | None = 0
    while start is not None:
        bounds.append(start)
        data = find_bytes(file, OGG_DATA, start)
        start = None if data is None else find_bytes(file, OGG_FIRST, data)
    return [*bounds, file.seek(0, io.SEEK_END)]


def find_bytes(file: BinaryIO, pattern: re.Pattern[bytes], start: int) -> int | None:
    """Returns the position of the first match of a pattern of up to 16 bytes."""
    file.seek(start)
    data = b""
    while part := file.read(2**20):
        start -= len(data)
        data += part
        if match := pattern.search(data):
            return start + match.start()
        start += len(data)
        data = data[-15:]
    return None


def check_single(file: BinaryIO, name: str) -> None:
    """Raises InputError if another file of its format follows a file that states its length."""
    file.seek(0)
    head = file.read(16)
    has_another = False
    if head[:4] in (b"RIFF", b"FORM") and len(head) == 16:
        (end,) = struct.unpack("<I" if head[:4] == b"RIFF" else ">I", head[4:8])
        if end < UNKNOWN_SIZE:
            file.seek(8 + end + end % 2)
            has_another = file.read(4) == head[:4]
        else:
            start = re.compile(rb"RIFF....WAVEfmt ", re.DOTALL)
            has_another = find_bytes(file, start, 12) is not None
    elif first := next((first for first in FIRST_BYTES if first.match(head)), None):
        has_another = find_bytes(file, first, 4) is not None
    if has_another:
        raise InputError(f"{name} has another sound file at its end: split it in two")


def is_truncated(file: BinaryIO) -> bool:
    """Returns whether a file that ffmpeg decodes ends before its header or format says.

    ffmpeg tells of that in MP4, Matroska and others, and not in WAV, AVI, WMA and Ogg.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(2**12)
    if head[:4] == b"RIFF":
        return any(
            size < start + length < UNKNOWN_SIZE
            for chunk, start, length in _chunks(file, 12, "<")
            if chunk in (b"data", b"LIST")
        )
    if head[:4] == b"OggS":
        file.seek(max(0, size - 2**17))  # a page has 64 kB
        _, _, page = file.read().rpartition(b"OggS\x00")
        if len(page) < 22:
            return True
        is_last, segments = page[0] & 4, page[22 : 22 + page[21]]
        return not is_last or len(page) < 22 + page[21] + sum(segments)
    if head[:16] == ASF_HEADER and (at := head.find(ASF_FILE)) >= 0 and len(head) >= at + 92:
        (stated,) = struct.unpack_from("<Q", head, at + 40)
        is_stream = head[at + 88] & 1
        return not is_stream and size < stated
    return False


def missing_length(file: BinaryIO) -> tuple[int, bytes] | None:
    """Returns the position of a length of 0 in a header, and the bytes of the right one.

    Programs write 0 first and correct it at the end.

    Returns:
        None if there are no samples, or the format is not WAV, RF64, AIFF or AU.
    """
    file.seek(0)
    magic, offset = file.read(4), file.read(4)
    size = file.seek(0, io.SEEK_END)
    if magic == b".snd":
        return (8, b"\xff" * 4) if struct.unpack(">I", offset) < (size,) else None
    if magic not in (b"RIFF", b"RF64", b"FORM"):
        return None
    order = ">" if magic == b"FORM" else "<"
    starts = [at for name, at, _ in _chunks(file, 12, order) if name in (b"data", b"SSND")]
    if not starts:
        return None
    start = starts[0]
    first = start if order == "<" else start + 8
    end = first
    for name, following, length in _chunks(file, first, order):
        end = following + length + length % 2 if name.isalnum() or name[3:] == b" " else 0
        if not end:
            break
    if end >= size:
        return None  # metadata follow, or nothing
    if magic == b"RF64":
        return 28, struct.pack("<Q", size - first)
    return start - 4, b"\xff" * 4 if order == "<" else struct.pack(">I", size - start)


def unread_bytes(file: BinaryIO) -> int:
    """Returns the number of bytes behind the last chunk of a WAV or AIFF; 0 for other formats.

    Recorders that correct the header while they record leave samples there if they are killed.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    magic, end = file.read(4), size
    if magic in (b"RIFF", b"FORM"):
        for chunk, start, length in _chunks(file, 12, ">" if magic == b"FORM" else "<"):
            if not re.fullmatch(rb"[ -~]{4}", chunk):
                break
            end = start + length + length % 2
    return max(0, size - end)


def _chunks(file: BinaryIO, position: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yields the name, the start and the length of each chunk from a position on."""
    file.seek(position)
    while len(header := file.read(8)) == 8:
        name, length = struct.unpack(f"{order}4sI", header)
        position += 8
        yield name, position, length
        position += length + length % 2
        file.seek(position)
