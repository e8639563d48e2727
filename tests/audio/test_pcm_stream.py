import io
import struct
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from ast_jax.audio.pcm_stream import ByteStream, PcmFormat, read_raw, read_wav
from ast_jax.errors import InputError

UNKNOWN_SIZES = [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def noise(samples=1000, channels=1):
    return (0.2 * np.random.default_rng(0).standard_normal((samples, channels))).clip(-1, 0.99)


def wav(samples, rate=16000, subtype="PCM_16", format="WAV"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format=format)
    return file.getvalue()


def with_size(content, size):
    """Returns a WAV with other sizes in its header."""
    at = content.index(b"data") + 4
    size = struct.pack("<I", size)
    return content[:4] + size + content[8:at] + size + content[at + 4 :]


def read(content, cuts=()):
    """Returns the format, the samples, and the notes."""
    bounds = [0, *sorted(cuts), len(content)]
    chunks = (content[a:b] for a, b in pairwise(bounds) if b > a)
    notes = []
    format, blocks = read_wav(ByteStream(chunks), "stdin", notes.append)
    return format, np.concatenate([np.empty((0, format.channels), np.float32), *blocks]), notes


@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_samples_are_those_of_libsndfile(subtype, form):
    content = wav(noise(channels=3), 22050, subtype, form)
    expected, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    format, found, notes = read(content)
    assert format[1:] == (22050, 3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    assert notes == []


@given(
    cuts=st.lists(st.integers(0, 1100), max_size=20),
    size=st.sampled_from([None, *UNKNOWN_SIZES]),
)
def test_the_cuts_between_chunks_do_not_matter(cuts, size):
    samples = noise(250, 2)
    content = wav(samples, subtype="PCM_16")
    if size is not None:
        content = with_size(content, size)
    np.testing.assert_array_equal(read(content, cuts)[1], read(wav(samples))[1])


def test_samples_are_returned_as_they_arrive():
    """Without waiting for more than one chunk, or for the end."""
    content = with_size(wav(noise(250)), 0xFFFFFFFF)
    header = len(content) - 500

    def chunks():
        yield content[:header]
        yield content[header : header + 101]
        yield content[header + 101 : header + 103]
        pytest.fail("waits for the next chunk")

    _, blocks = read_wav(ByteStream(chunks()), "stdin", pytest.fail)
    assert [len(next(blocks)) for _ in range(2)] == [50, 1]


def test_doubles_beyond_float32_are_infinite():
    assert read(wav(np.full((3, 1), 1e300), subtype="DOUBLE"))[1].tolist() == [[np.inf]] * 3


def test_metadata_are_skipped_and_a_wav_of_the_same_format_may_follow():
    samples = noise(251)[:, 0]
    mono = wav(samples, subtype="PCM_U8")  # 251 bytes, and one of padding
    assert mono[-252:-251] != b"\0" == mono[-1:]
    metadata = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    before = mono[:12] + metadata + mono[12:]
    once, twice = read(mono)[1], read(before + metadata + mono + metadata)[1]
    np.testing.assert_array_equal(twice, np.concatenate([once, once]))
    with pytest.raises(InputError, match=r"from 16000 Hz, 1 channel and u8 .* to 8000 Hz, 2 chan"):
        read(mono + wav(noise(10, 2), 8000, "PCM_U8"))


@given(cuts=st.lists(st.integers(480, 640), max_size=30), size=st.sampled_from(UNKNOWN_SIZES))
def test_a_wav_may_follow_one_of_unknown_length(cuts, size):
    """As `arecord` starts a new one after 2 GiB, wherever the bytes are cut."""
    content = with_size(wav(noise(250)), size)  # of 544 bytes
    expected = np.concatenate([read(content)[1]] * 2)
    np.testing.assert_array_equal(read(content * 2, cuts)[1], expected)
    with pytest.raises(InputError, match=r"changes from 16000 Hz.* to 8000 Hz"):
        read(content + with_size(wav(noise(250), 8000), size), cuts)


def test_samples_that_look_like_a_header_are_samples():
    for end in (b"RIFF1234WAVEfm", b"RIFF", b"R" * 100, b"RIFF1234WAVEfnt "):
        content = with_size(wav(noise(250)), 0xFFFFFFFF) + end
        for cuts in ([], range(544, 560)):
            assert read(content, cuts)[1].size == 250 + len(end) // 2


def test_raw_samples_are_read():
    samples = noise(300, 2).astype("<f4")
    chunks = iter([samples.tobytes()[:1001], samples.tobytes()[1001:] + b"12345"])
    notes = []
    blocks = read_raw(ByteStream(chunks), PcmFormat("f32", 8000, 2), "stdin", notes.append)
    np.testing.assert_array_equal(np.concatenate(list(blocks)), samples)
    assert notes == ["stdin ends within a sample; bytes that are left out: 5"]


def test_odd_bytes_at_the_end_are_told():
    content = with_size(wav(noise(250)), 0xFFFFFFFF) + b"x"
    _, samples, notes = read(content)
    assert len(samples) == 250
    assert notes == ["stdin ends within a sample; bytes that are left out: 1"]


WAV = wav(noise())
FMT = WAV.index(b"fmt ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "stdin is empty: pipe"),
        (b"ID3 and no more", "stdin has no WAV header: send a WAV, or give --format and --rate"),
        (WAV[:20], "stdin ends within its WAV header"),
        (WAV[:FMT] + WAV[FMT + 24 :], "stdin has a damaged WAV header"),
        (WAV[: FMT + 4] + b"\xff" * 4 + WAV[FMT + 8 :], "stdin has a damaged WAV header"),
        (WAV[: FMT + 20] + b"\x03" + WAV[FMT + 21 :], "stdin has a damaged WAV header"),
        (WAV[: FMT + 10] + b"\0" + WAV[FMT + 11 :], "16000 Hz, 0 channels and s16 samples: it"),
        (WAV[: FMT + 12] + b"\1\0" + WAV[FMT + 14 :], "1 Hz, 1 channel"),
        (wav(noise(), subtype="ULAW"), "is a WAV with samples of 8 bits in format 7: send"),
        (WAV[:-3], "truncated: it has 1997 bytes of samples, and its header states 2000"),
        (WAV + b"\x01\x02\x03\x04" * 5, "goes on behind the end that its WAV header states"),
        (WAV + b"RIFF\x00\x00\x00\x00AVI \x00\x00\x00", "stdin has no WAV header"),
    ],
)
def test_streams_that_cannot_be_used_are_refused(content, message):
    with pytest.raises(InputError, match=message):
        read(content)
