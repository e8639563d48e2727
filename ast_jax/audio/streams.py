"""Reads the streams of sound files with libsndfile, in order and in blocks.

libsndfile takes some headers at their word: it stops at its estimate of an MP3's length, at the
first of several streams, and at a length of 0 that a killed recorder left. It also reads truncated
files without an error. This module reads what is there, and refuses what the header contradicts.
"""

import io
import re
from collections.abc import Iterator
from itertools import chain, pairwise
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float32

from ast_jax.audio.headers import (
    MP3_START,
    UNKNOWN_SIZE,
    check_single,
    find_bytes,
    missing_length,
    mp3_states_length,
    ogg_bounds,
    skip_id3,
    unread_bytes,
)
from ast_jax.audio.source import Source
from ast_jax.errors import InputError

BLOCK = 2**16  # values in a block, all channels together

# A size that no file has. libsndfile estimates the length of an MP3 by its size.
ENDLESS = 2**40
LONGEST = 2**36  # samples; more are an estimate from `ENDLESS`, or stand for an unknown length

MP3_FRAME = 1152  # samples, at most
MP3_TAG = 2**20  # bytes between joined files that are searched
MP3_PROBE = 8192  # bytes in which a frame must be found


# In libsndfile's log of opening an Ogg or a VOC.
MISSING_END = (
    "Last page lacks an end-of-stream bit",
    "Junk after the last page",
    "Seems to be a truncated file",
)


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
            check_single(file, name)
            raise
        if sound.subtype.startswith("MPEG"):
            with sound:
                _check_header(sound, name)  # of a WAV around it
            yield from _read_mp3(file, name, is_joined=sound.format == "MP3")
        elif sound.format == "OGG" and len(bounds := ogg_bounds(file)) > 2:
            sound.close()
            for start, end in pairwise(bounds):
                yield _stream(_open(Part(file, start, end), name), name)
        elif not sound.frames and (patch := missing_length(file)):
            sound.close()
            sound = _open(Part(file, patch=patch), name)
            note = "the header says 0 samples, as a recorder that was killed leaves it"
            yield _stream(sound, name)._replace(note=f"{name}: {note}; all that follows is read")
        else:
            unread = unread_bytes(file)
            note = f"{name}: {unread} bytes behind the end that its header states are not read"
            is_much = 100 * unread > file.seek(0, io.SEEK_END)
            yield _stream(sound, name)._replace(note=note if is_much else "")
            check_single(file, name)


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
    if any(warning in log for warning in MISSING_END):
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


def _read_mp3(file: BinaryIO, name: str, *, is_joined: bool) -> Iterator[Stream]:
    """Yields the streams of joined MP3 files, or the one in another container.

    A stream without a header that states its length is read to the end of the file.
    """
    size = file.seek(0, io.SEEK_END)
    end: int | None = None  # of the stream before
    start: int | None = 0
    while start is not None and start - (end or 0) <= MP3_TAG:
        states_length = mp3_states_length(file, start)
        part = Part(file, start, endless=not states_length)
        try:
            if end is not None:  # the decoder searches junk at length, byte by byte
                _open(Part(file, start, min(start + MP3_PROBE, size)), name).close()
            stream = _stream(_open(part, name), name, None if states_length else part)
        except UnknownFormatError:
            if end is None:
                raise
            start = find_bytes(file, MP3_START, start + 1)  # this one is in a tag
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
        end = skip_id3(file, part.rest)
        start = find_bytes(file, MP3_START, end)
