"""Reads the streams of sound files with libsndfile, in order and in blocks.

libsndfile takes some headers at their word: it stops at its estimate of an MP3's length, at the
first of several streams, and at a length of 0 that a killed recorder left. It also reads truncated
files without an error. This module reads what is there, and refuses what the header contradicts.
"""

import io
import re
import struct
from collections.abc import Iterator
from itertools import chain, pairwise
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float32

from ast_jax.audio.source import Source
from ast_jax.errors import InputError

BLOCK = 2**16  # values in a block, all channels together

# A size that no file has. libsndfile estimates the length of an MP3 by its size.
ENDLESS = 2**40
LONGEST = 2**36  # samples; more are an estimate from `ENDLESS`, or stand for an unknown length

# Sizes in headers of files that were written to a pipe: sox writes this, ffmpeg 0xFFFFFFFF.
UNKNOWN_SIZE = 0x7FFFF000

# The first frame of an MP3 may be a header with the number of frames, by Xing, LAME or Fraunhofer.
MP3_HEADER = re.compile(
    rb"\xff[\xe2-\xff]..(?:(?:.{9}|.{17}|.{32})(?:..)?(?:Xing|Info)|.{32}VBRI)", re.DOTALL
)
MP3_START = re.compile(rb"ID3[\x02-\x04]|\xff[\xe2\xe3\xf2-\xf7\xfa-\xff]")
MP3_FRAME = 1152  # samples, at most
MP3_TAG = 2**20  # bytes between joined files that are searched
MP3_PROBE = 8192  # bytes in which a frame must be found

OGG_DATA = re.compile(rb"OggS\x00[\x00\x01\x04\x05]")  # a page that is not a stream's first
OGG_FIRST = re.compile(rb"OggS\x00[\x02\x06]")


class Stream(NamedTuple):
    """A stream of a sound file.

    Attributes:
        rate: the sampling rate, in Hz.
        frames: the number of samples per channel that the header states; None if it states none.
        blocks: the samples, read as the blocks are.
        note: a sentence about the header, '' for none.
    """

    rate: int
    frames: int | None
    blocks: Iterator[Float32[np.ndarray, "samples channels"]]
    note: str = ""


class UnknownFormatError(InputError):
    """Raised for a file in which libsndfile finds no format that it reads."""


class InOrder(soundfile.SoundFile):
    """A sound file that is read from its beginning to its end.

    soundfile seeks after each block of a seekable file, which changes decoded MP3, and reads no
    other kind as a whole.
    """

    def seekable(self) -> bool:
        """Returns False."""
        return False


class Part(io.RawIOBase):
    """A part of a file as a file of its own.

    Attributes:
        position: the number of bytes that are read.
    """

    def __init__(
        self,
        file: BinaryIO,
        start: int = 0,
        end: int | None = None,
        *,
        endless: bool = False,
        patch: tuple[int, bytes] = (0, b""),
    ):
        """Opens a part.

        Args:
            file: the file.
            start: of the part.
            end: of the part; None for the file's.
            endless: whether to claim to be of endless size.
            patch: bytes to read in place of the file's, and where.
        """
        self.position = 0
        self._file, self._start, self._patch = file, start, patch
        self._length = (file.seek(0, io.SEEK_END) if end is None else end) - start
        self._size = ENDLESS if endless else self._length

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position; returns it."""
        self.position = max(0, offset + (0, self.position, self._size)[whence])
        return self.position

    def tell(self) -> int:
        """Returns the position."""
        return self.position

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """Reads into a buffer; returns the number of bytes."""
        wanted = len(buffer)
        self._file.seek(self._start + self.position)
        data = self._file.read(max(0, min(wanted, self._length - self.position)))
        if self.position >= ENDLESS - 128:  # where the decoder looks for a tag
            data = bytes(wanted)
        at, new = self._patch
        if at < self.position + len(data) and self.position < at + len(new):
            patched = bytearray(data)
            for i in range(max(at, self.position), min(at + len(new), self.position + len(data))):
                patched[i - self.position] = new[i - at]
            data = bytes(patched)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    @property
    def rest(self) -> int:
        """The position in the file of what is not read."""
        return self._start + self.position

    @property
    def is_at_end(self) -> bool:
        """Whether all is read."""
        return self.position >= self._length


def read_streams(source: Source) -> Iterator[Stream]:
    """Yields the streams of a sound file; the blocks of each must be read before the next.

    Raises:
        UnknownFormatError: libsndfile knows no such format.
        InputError: the file is damaged or truncated, or another file follows in it.
    """
    name = source.name
    with source.open() as file:
        try:
            sound = _open(source.path or source.open(), name)
        except UnknownFormatError:
            _check_single(file, name)
            raise
        if sound.subtype.startswith("MPEG"):
            with sound:
                _check_header(sound, name)  # of a WAV around it
            yield from _read_mp3(file, name, is_joined=sound.format == "MP3")
        elif sound.format == "OGG" and len(bounds := _links(file)) > 2:
            sound.close()
            for start, end in pairwise(bounds):
                yield _stream(_open(Part(file, start, end), name), name)
        elif not sound.frames and (patch := _missing_length(file)):
            sound.close()
            sound = _open(Part(file, patch=patch), name)
            note = "the header says 0 samples, as a recorder that was killed leaves it"
            yield _stream(sound, name)._replace(note=f"{name}: {note}; all that follows is read")
        else:
            yield _stream(sound, name)
            _check_single(file, name)


def _open(file: "bytes | BinaryIO | Part", name: str) -> InOrder:
    try:
        return InOrder(file)
    except soundfile.LibsndfileError as error:
        raise UnknownFormatError(
            f"{name} cannot be read as audio, it is damaged or in an unknown format "
            f"(libsndfile: {_reason(error)}): restore it or convert it to WAV"
        ) from error
    except TypeError as error:  # soundfile raises it for *.raw
        raise InputError(
            f"{name} has no header that gives its sampling rate: convert it to WAV"
        ) from error


def _reason(error: soundfile.LibsndfileError) -> str:
    """Returns the message of an error; that of an MP3 in which no frame is found misleads."""
    text = error.error_string.rstrip(".")
    return "no MP3 frame" if text.startswith("File does not exist or is not a regular") else text


def _stream(sound: InOrder, name: str, part: Part | None = None) -> Stream:
    """Returns the stream of an open sound; arguments and errors are those of `read_blocks`."""
    _check_header(sound, name)
    frames = sound.frames if sound.frames < LONGEST else None
    return Stream(sound.samplerate, frames, read_blocks(sound, name, frames, part))


def read_blocks(
    sound: InOrder, name: str, frames: int | None = None, part: Part | None = None
) -> Iterator[Float32[np.ndarray, "samples channels"]]:
    """Yields the samples of an open sound in blocks, and closes it.

    Args:
        sound: the sound.
        name: for messages.
        frames: the number of samples per channel that there must be; None if unknown.
        part: the file of the sound if its end may be incomplete.

    Raises:
        InputError: the sound is damaged or truncated.
    """
    count, channels = 0, sound.channels
    size = max(1, BLOCK // channels)
    with sound:
        while count < (frames or LONGEST):
            block = np.empty((min(size, (frames or LONGEST) - count), channels), np.float32)
            if part:
                block.fill(np.nan)
            try:
                block = sound.read(out=block)
            except soundfile.LibsndfileError as error:
                if not (part and part.is_at_end):
                    raise InputError(
                        f"{name} is damaged after {count} samples per channel (libsndfile: "
                        f"{_reason(error)}): restore it or convert it to WAV"
                    ) from error
                # libsndfile does not say how many samples precede an incomplete frame.
                yield block[: np.isfinite(block[:, 0]).sum()]
                return
            if not len(block):
                break
            count += len(block)
            yield block
    if count < (frames or 0):
        raise _truncated(name, count)


def _check_header(sound: InOrder, name: str) -> None:
    """Raises InputError if libsndfile's log of opening a file reports a missing end.

    libsndfile reads a truncated file without an error. Its log has a size that exceeds the file
    as "data : 64000 (should be 63998)".
    """
    log = sound.extra_info
    if "Last page lacks an end-of-stream bit" in log or "Junk after the last page" in log:
        raise _truncated(name, sound.frames)
    for chunk, stated, found in re.findall(
        r"^\s*(\w[\w ]*?)\s*: (\d+) \(should be (\d+)\)$", log, re.MULTILINE
    ):
        # Many programs state an outer size that is off by a padding byte or by the 8 bytes of
        # the outer header, around a complete data chunk.
        slack = 8 if chunk.lower() in ("riff", "form") else 0
        if int(found) + slack < int(stated) < UNKNOWN_SIZE:
            raise _truncated(name, sound.frames)


def _truncated(name: str, count: int) -> InputError:
    return InputError(
        f"{name} is truncated to {count} samples per channel: restore it, or convert what is left "
        f"to WAV"
    )


# ---- several streams in a file


def _read_mp3(file: BinaryIO, name: str, *, is_joined: bool) -> Iterator[Stream]:
    """Yields the streams of joined MP3 files, or the one in another container.

    A stream without a header that states its length is read to the end of the file.
    """
    size = file.seek(0, io.SEEK_END)
    end: int | None = None  # of the stream before
    start: int | None = 0
    while start is not None and start - (end or 0) <= MP3_TAG:
        states_length = _states_length(file, start)
        part = Part(file, start, endless=not states_length)
        try:
            if end is not None:  # the decoder searches junk at length, byte by byte
                _open(Part(file, start, min(start + MP3_PROBE, size)), name).close()
            stream = _stream(_open(part, name), name, None if states_length else part)
        except UnknownFormatError:
            if end is None:
                raise
            start = _find(file, MP3_START, start + 1)  # this one is in a tag
            continue
        block = next(stream.blocks, np.empty((0, 1), np.float32))
        if end is not None and len(block) <= 2 * MP3_FRAME:
            return  # the padding of the stream before
        yield stream._replace(blocks=chain([block], stream.blocks))
        if not states_length and not part.is_at_end:
            raise InputError(
                f"{name} changes its sampling rate or channels: split it, or convert it to WAV"
            )
        if not is_joined or not states_length:
            return
        end = _skip_id3(file, part.rest)
        start = _find(file, MP3_START, end)


def _states_length(file: BinaryIO, start: int) -> bool:
    """Returns whether the MP3 stream that starts there has a header with its length."""
    file.seek(_skip_id3(file, start))
    return MP3_HEADER.search(file.read(4096)) is not None


def _skip_id3(file: BinaryIO, start: int) -> int:
    """Returns the position behind an ID3 tag that starts there, `start` without one."""
    file.seek(start)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return start
    length = sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    return start + 10 + length


def _links(file: BinaryIO) -> list[int]:
    """Returns the bounds of the streams that follow each other in an Ogg file."""
    bounds: list[int] = []
    start: int | None = 0
    while start is not None:
        bounds.append(start)
        data = _find(file, OGG_DATA, start)
        start = None if data is None else _find(file, OGG_FIRST, data)
    return [*bounds, file.seek(0, io.SEEK_END)]


def _find(file: BinaryIO, pattern: re.Pattern[bytes], start: int) -> int | None:
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


def _check_single(file: BinaryIO, name: str) -> None:
    """Raises InputError if another file of its format follows a WAV, AIFF or FLAC file."""
    file.seek(0)
    magic, size = file.read(4), file.read(4)
    if magic == b"fLaC":
        has_another = _find(file, re.compile(rb"fLaC\x00\x00\x00\x22"), 4) is not None
    elif magic in (b"RIFF", b"FORM") and len(size) == 4:
        (end,) = struct.unpack("<I" if magic == b"RIFF" else ">I", size)
        if end < UNKNOWN_SIZE:
            file.seek(8 + end + end % 2)
            has_another = file.read(4) == magic
        else:
            start = re.compile(rb"RIFF....WAVEfmt ", re.DOTALL)
            has_another = _find(file, start, 12) is not None
    else:
        return
    if has_another:
        raise InputError(f"{name} has another sound file at its end: split it in two")


# ---- headers that were never completed


def _missing_length(file: BinaryIO) -> tuple[int, bytes] | None:
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


def _chunks(file: BinaryIO, position: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yields the name, the start and the length of each chunk from a position on."""
    file.seek(position)
    while len(header := file.read(8)) == 8:
        name, length = struct.unpack(f"{order}4sI", header)
        position += 8
        yield name, position, length
        position += length + length % 2
        file.seek(position)
