"""Decodes the samples of a stream of bytes, raw or as WAV, as they arrive."""

import re
import struct
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from ast_jax.audio.headers import UNKNOWN_SIZE
from ast_jax.audio.waveform import MAX_CHANNELS, SAMPLING_RATES
from ast_jax.errors import InputError

Block = Float32[np.ndarray, "samples channels"]
Note = Callable[[str], None]

BLOCK = 2**16  # bytes that are decoded at once
ENDLESS = 2**62
MAX_CHUNK = 2**26  # bytes of a chunk of a WAV that is skipped: metadata with a picture have less


def _from_int24(data: bytes) -> np.ndarray:
    padded = np.zeros((len(data) // 3, 4), np.uint8)
    padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return padded.reshape(-1).view("<i4").astype(np.float32) / np.float32(2**31)


def _from_float64(data: bytes) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinite samples are refused later
        return np.frombuffer(data, "<f8").astype(np.float32)


# Bytes of a sample, and what decodes samples to float32, as libsndfile does.
ENCODINGS: dict[str, tuple[int, Callable[[bytes], np.ndarray]]] = {
    "u8": (1, lambda data: (np.frombuffer(data, np.uint8) - np.float32(128)) / np.float32(128)),
    "s16": (2, lambda data: np.frombuffer(data, "<i2") / np.float32(2**15)),
    "s24": (3, _from_int24),
    "s32": (4, lambda data: np.frombuffer(data, "<i4").astype(np.float32) / np.float32(2**31)),
    "f32": (4, lambda data: np.frombuffer(data, "<f4")),
    "f64": (8, _from_float64),
}

# The start of a WAV, and one that is cut at the end of the bytes that have arrived.
WAV_START = re.compile(rb"RIFF.{4}WAVEfmt ", re.DOTALL)
WAV_START_CUT = re.compile(rb"R(I(F(F.{0,11})?)?)?\Z", re.DOTALL)

# The encodings of a WAV by its format tag and the bits of a sample.
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
WAV_ENCODINGS = {
    (PCM, 8): "u8", (PCM, 16): "s16", (PCM, 24): "s24", (PCM, 32): "s32",
    (FLOAT, 32): "f32", (FLOAT, 64): "f64",
}  # fmt: skip


class PcmFormat(NamedTuple):
    """The format of raw samples: little-endian, with interleaved channels."""

    encoding: str
    rate: int
    channels: int

    def __str__(self) -> str:
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        return f"{self.rate} Hz, {channels} and {self.encoding} samples"

    @property
    def frame_size(self) -> int:
        """The bytes of a sample of all channels."""
        return ENCODINGS[self.encoding][0] * self.channels

    def decode(self, data: bytes) -> Block:
        """Returns the samples of whole frames."""
        return ENCODINGS[self.encoding][1](data).reshape(-1, self.channels)


class ByteStream:
    """Bytes that arrive in chunks of any size."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks, self._rest = chunks, b""

    def read(self, size: int) -> bytes:
        """Returns `size` bytes, waiting for them; fewer only at the end."""
        parts = [self.read_available(size)]
        while parts[-1] and (size := size - len(parts[-1])):
            parts.append(self.read_available(size))
        return b"".join(parts)

    def read_available(self, size: int) -> bytes:
        """Returns at most `size` bytes, without waiting for more than the first; b'' at the end."""
        if not self._rest:
            self._rest = next(self._chunks, b"")
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def unread(self, data: bytes) -> None:
        """Makes `data` the next bytes to read."""
        self._rest = data + self._rest

    def peek(self, size: int) -> bytes:
        """Returns what `read` would, and leaves it to be read."""
        data = self.read(size)
        self.unread(data)
        return data


def read_raw(stream: ByteStream, format: PcmFormat, name: str, note: Note) -> Iterator[Block]:
    """Yields the samples of a stream without a header as they arrive.

    Args:
        stream: the bytes.
        format: of the samples.
        name: of the stream, for messages.
        note: receives a sentence about bytes at the end that are no whole sample.
    """
    _, rest = yield from _read_frames(stream, format, ENDLESS)
    _note_rest(rest, name, note)


def read_wav(stream: ByteStream, name: str, note: Note) -> tuple[PcmFormat, Iterator[Block]]:
    """Returns the format of a WAV, when its header has arrived, and its samples as they arrive.

    Programs that write to a pipe do not know the length: 0, or 2 GiB and more, stands for an
    unknown one. Metadata behind samples of a known length are skipped. Another WAV of the same
    format may follow, as `arecord` starts one after 2 GiB.

    Args:
        stream: the bytes.
        name: of the stream, for messages.
        note: see `read_raw`.

    Raises:
        InputError: the header is missing, damaged or of an unknown format; or, as the samples are
            read, they are fewer than it states, or what follows is no WAV of this format.
    """
    format, first_length = _read_header(stream, name)

    def blocks() -> Iterator[Block]:
        length = first_length
        while True:
            if 0 < length < UNKNOWN_SIZE:
                count, rest = yield from _read_frames(stream, format, length)
                if count < length:
                    raise InputError(
                        f"{name} is truncated: it has {count} bytes of samples, and its header "
                        f"states {length}"
                    )
                _skip_chunks(stream, length, name)
            else:
                _, rest = yield from _read_frames(stream, format, ENDLESS, to_header=True)
            _note_rest(rest, name, note)
            if not stream.peek(1):
                return
            other, length = _read_header(stream, name)
            if other != format:
                raise InputError(
                    f"{name} changes from {format} to {other}: send them one after the other"
                )

    return format, blocks()


def _read_frames(
    stream: ByteStream, format: PcmFormat, length: int, *, to_header: bool = False
) -> Generator[Block, None, tuple[int, bytes]]:
    """Yields the samples of at most `length` bytes as they arrive.

    Args:
        stream: the bytes.
        format: of the samples.
        length: in bytes.
        to_header: whether to stop before the header of another WAV.

    Returns:
        The number of bytes, and those at the end that are no whole sample.
    """
    count, rest = 0, b""
    while data := stream.read_available(min(BLOCK, length - count)):
        if to_header and not (data := _until_header(stream, data)):
            break
        count += len(data)
        data = rest + data
        end = len(data) - len(data) % format.frame_size
        rest = data[end:]
        if end:
            yield format.decode(data[:end])
    return count, rest


def _until_header(stream: ByteStream, data: bytes) -> bytes:
    """Returns what precedes the header of a WAV in the next bytes, b'' if they are one.

    The rest is left to be read, also of bytes that are too few to tell.
    """
    while True:
        if found := WAV_START.search(data):
            break
        found = WAV_START_CUT.search(data)
        if not found or found.start():
            break
        more = stream.read_available(BLOCK)
        if not more:
            return data
        data += more
    if not found:
        return data
    stream.unread(data[found.start() :])
    return data[: found.start()]


def _note_rest(rest: bytes, name: str, note: Note) -> None:
    if rest:
        note(f"{name} ends within a sample; bytes that are left out: {len(rest)}")


def _is_wav(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


def _read_header(stream: ByteStream, name: str) -> tuple[PcmFormat, int]:
    """Reads a WAV up to its samples; returns their format, and their bytes that it states."""
    head = stream.read(12)
    if not head:
        raise InputError(f"{name} is empty: pipe a sound into it")
    if not _is_wav(head):
        raise InputError(
            f"{name} has no WAV header: send a WAV, or give --format and --rate of raw samples"
        )
    format = None
    while len(head := stream.read(8)) == 8:
        chunk, size = struct.unpack("<4sI", head)
        if chunk == b"data" and format:
            return format, size
        if chunk == b"data" or size > MAX_CHUNK:
            raise InputError(f"{name} has a damaged WAV header: send it again")
        content = stream.read(size + size % 2)
        if chunk == b"fmt " and len(content) >= size:
            format = _parse_format(content, name)
    raise InputError(f"{name} ends within its WAV header: send it again")


def _parse_format(content: bytes, name: str) -> PcmFormat:
    """Returns the format in the chunk `fmt ` of a WAV."""
    tag, channels, rate, _, frame_size, bits = struct.unpack_from(
        "<HHIIHH", content.ljust(16, b"\0")
    )
    if tag == EXTENSIBLE and len(content) >= 26:
        (tag,) = struct.unpack_from("<H", content, 24)
    encoding = WAV_ENCODINGS.get((tag, bits))
    if not encoding:
        raise InputError(
            f"{name} is a WAV with samples of {bits} bits in format {tag}: send integers of 8 to "
            f"32 bits or floats, as `ffmpeg -c:a pcm_s16le` does"
        )
    format = PcmFormat(encoding, rate, channels)
    low, high = SAMPLING_RATES
    if not (low <= rate <= high and 1 <= channels <= MAX_CHANNELS):
        raise InputError(
            f"{name} has a WAV header with {format}: it takes {low} to {high} Hz and up to "
            f"{MAX_CHANNELS} channels"
        )
    if frame_size != format.frame_size:
        raise InputError(f"{name} has a damaged WAV header: send it again")
    return format


def _skip_chunks(stream: ByteStream, length: int, name: str) -> None:
    """Reads what follows `length` bytes of samples, up to the next WAV or the end."""
    stream.read(length % 2)
    while len(head := stream.peek(8)) == 8 and head[:4] != b"RIFF":
        chunk, size = struct.unpack("<4sI", head)
        if not re.fullmatch(rb"[ -~]{4}", chunk) or size > MAX_CHUNK:
            raise InputError(
                f"{name} goes on behind the end that its WAV header states: send raw samples, with "
                f"--format and --rate, if the header is wrong"
            )
        stream.read(8 + size + size % 2)
    if len(head) < 8:
        stream.read(8)
