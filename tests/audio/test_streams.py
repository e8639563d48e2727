"""Tests that files with wrong or missing lengths are read to their end, or refused."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ast_jax.audio.decode import load_audio, read_recording
from ast_jax.errors import InputError

SOUNDS = Path(__file__).parent / "sounds"
RATE = 16000


def noise(samples, channels=1, seed=0):
    values = np.random.default_rng(seed).uniform(-0.5, 0.5, (samples, channels))
    return values.astype(np.float32)


def encoded(tmp_path, samples=RATE, rate=RATE, *, format="WAV", subtype=None, seed=0, **options):
    """Returns the bytes of a sound file of noise."""
    path = tmp_path / "encoded"
    channels = options.pop("channels", 1)
    soundfile.write(path, noise(samples, channels, seed), rate, subtype, format=format, **options)
    return path.read_bytes()


def without_header(mp3):
    """Returns the content of an MP3 file without its first frame, which states the length."""
    assert b"Xing" in mp3[:200] or b"Info" in mp3[:200]
    return mp3[mp3.index(mp3[:2], 50) :]


def samples_of(tmp_path, content, name="joined"):
    (tmp_path / name).write_bytes(content)
    return load_audio(tmp_path / name, soundfile.info(tmp_path / name).samplerate)


def message_of(content):
    with pytest.raises(InputError) as caught:
        load_audio(content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- MP3 whose header does not state the length


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_without_a_header_is_read_to_its_end(tmp_path, mode):
    # A quiet beginning misleads the estimate of a variable rate.
    sound = np.concatenate([0.001 * noise(RATE), noise(3 * RATE)])
    path = tmp_path / "a.mp3"
    soundfile.write(path, sound, RATE, format="MP3", bitrate_mode=mode)
    whole = path.read_bytes()
    content = without_header(whole)
    found = samples_of(tmp_path, content)
    frame = 576  # of MPEG-2
    assert len(found) % frame == 0
    assert len(sound) <= len(found) <= len(sound) + 4 * frame
    expected = load_audio(whole)
    # The header also states the delay of the encoder.
    middle = expected[40000:60000]
    assert any(np.allclose(found[d : d + 20000], middle, atol=1e-3) for d in range(40000, 42000))
    # The last frame is incomplete, as in a recorded stream.
    cut = samples_of(tmp_path, content[:-5])
    np.testing.assert_array_equal(cut, found[:-frame])


def test_an_mp3_in_a_wav_is_read_to_its_end():
    assert len(load_audio(SOUNDS / "mp3_in.wav")) == 21312
    content = (SOUNDS / "mp3_in.wav").read_bytes()
    assert "is truncated" in message_of(content[:-500])


def test_damage_in_an_mp3_without_a_header_is_not_its_end(tmp_path):
    content = without_header(encoded(tmp_path, 4 * RATE, format="MP3"))
    half = len(content) // 2
    damaged = content[:half] + bytes(5000) + content[half:]
    assert "is damaged after" in message_of(damaged)


# ---- several streams in a file


@pytest.mark.parametrize("tag", [b"", b"TAG" + bytes(125)])
def test_joined_mp3_files_are_read_as_one(tmp_path, tag):
    first, second = (encoded(tmp_path, n * RATE, format="MP3", seed=n) for n in (2, 3))
    expected = np.concatenate([load_audio(first), load_audio(second)])
    assert len(expected) == 5 * RATE
    np.testing.assert_array_equal(load_audio(first + tag + second), expected)
    np.testing.assert_array_equal(load_audio(first + tag), expected[: 2 * RATE])

    bare = without_header(second)
    joined = load_audio(first + tag + bare)
    np.testing.assert_array_equal(joined, np.concatenate([load_audio(first), load_audio(bare)]))


def test_joined_mp3_files_of_other_rates_are_refused(tmp_path):
    first = encoded(tmp_path, format="MP3")
    second = encoded(tmp_path, format="MP3", rate=22050)
    assert "has parts of 16000 and 22050 Hz: split it" in message_of(first + second)
    both = without_header(first) + without_header(second)
    assert "changes its sampling rate or channels" in message_of(both)


@pytest.mark.parametrize(("subtype", "rate"), [("VORBIS", 16000), ("OPUS", 48000)])
def test_chained_ogg_files_are_read_as_one(tmp_path, subtype, rate):
    links = [
        encoded(tmp_path, n, rate, format="OGG", subtype=subtype, seed=n) for n in (rate, 9000, 99)
    ]
    expected = np.concatenate([load_audio(link, rate) for link in links])
    assert len(expected) == rate + 9099
    np.testing.assert_array_equal(samples_of(tmp_path, b"".join(links)), expected)
    message_of(b"".join(links)[:-100])


@pytest.mark.parametrize(
    ("format", "size"),
    [
        *(("WAV", None), ("WAV", b"\xff" * 4), ("AIFF", None), ("FLAC", None)),
        *(("AU", None), ("CAF", None), ("RF64", None)),
    ],
)
def test_another_file_at_the_end_is_refused(tmp_path, format, size):
    content = encoded(tmp_path, 999, format=format)
    assert len(load_audio(content)) == 999
    if size:
        content = content[:4] + size + content[8:40] + size + content[44:]
    assert "has another sound file at its end" in message_of(content + content)


@pytest.mark.parametrize("tail", [bytes(600), bytes(599) + b"LIST"])
def test_samples_behind_the_stated_end_are_noted(tmp_path, tail):
    content = encoded(tmp_path, 999)
    recording = read_recording(content + tail, RATE)
    assert len(recording.waveform) == 999
    assert f"{len(tail)} bytes behind the end that its header states are not" in recording.note
    assert not read_recording(content + b"LIST\x04\0\0\0INFO", RATE).note


def test_a_truncated_voc_is_refused(tmp_path):
    assert "is truncated" in message_of(encoded(tmp_path, 999, format="VOC")[:-100])


# ---- headers that state no length or 0


def unfinished(content, *patches):
    """Returns content with other bytes at an offset behind a marker."""
    content = bytearray(content)
    for marker, offset, new in patches:
        at = content.index(marker) + offset
        content[at : at + len(new)] = new
    return bytes(content)


ZERO = bytes(4)
UNFINISHED = {
    "WAV": [(b"data", 4, ZERO)],
    "WAV, outer size 0": [(b"data", 4, ZERO), (b"RIFF", 4, ZERO)],
    "WAV, outer size of the header": [(b"data", 4, ZERO), (b"RIFF", 4, b"\x24\0\0\0")],
    "RF64": [(b"ds64", 8, bytes(24))],
    "AIFF": [(b"SSND", 4, b"\0\0\0\x08"), (b"COMM", 10, ZERO)],
    "AU": [(b".snd", 8, ZERO)],
}


@pytest.mark.parametrize("kind", UNFINISHED)
def test_a_header_that_was_never_completed_is_noted(tmp_path, kind):
    content = encoded(tmp_path, 2001, 16000, format=kind.split(",")[0], channels=2)
    left = unfinished(content, *UNFINISHED[kind])
    for source in (left, tmp_path / "a"):
        (tmp_path / "a").write_bytes(left)
        recording = read_recording(source, 16000)
        assert "the header says 0 samples" in recording.note
        np.testing.assert_array_equal(recording.waveform, load_audio(content))
    with pytest.warns(UserWarning, match="the header says 0 samples"):
        load_audio(left)


def test_a_wav_without_samples_before_its_metadata_is_empty(tmp_path):
    content = encoded(tmp_path, 0) + b"LIST\x04\0\0\0INFOid3 \x02\0\0\0ab"
    assert "holds no samples" in message_of(content)


def test_a_flac_from_a_pipe_is_read_to_its_end(tmp_path):
    content = bytearray(encoded(tmp_path, 5000, format="FLAC"))
    expected = load_audio(bytes(content))
    content[21] &= 0xF0
    content[22:26] = ZERO  # STREAMINFO's number of samples
    np.testing.assert_array_equal(load_audio(bytes(content)), expected)


@pytest.mark.parametrize(
    ("format", "subtype"), [("WAV", "GSM610"), ("AU", "G721_32"), ("WAV", "NMS_ADPCM_16")]
)
def test_formats_that_cannot_seek_are_read_in_order(tmp_path, format, subtype):
    content = encoded(tmp_path, 70000, 8000, format=format, subtype=subtype)
    found = load_audio(content, 8000)
    assert 70000 <= len(found) <= 70400
    with soundfile.SoundFile(tmp_path / "encoded") as sound:
        np.testing.assert_array_equal(found[:60000], sound.read(60000, dtype="float32"))


def test_a_wav_of_gsm_that_lacks_its_end_is_refused(tmp_path):
    content = encoded(tmp_path, 8000, 8000, subtype="GSM610")
    assert "is truncated" in message_of(content[:-300])


def header(rate, data):
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16),
        *(b"data", len(data)),
    )


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2**31 - 1])
def test_rates_that_no_sound_has_are_refused(rate):
    message = message_of(header(rate, bytes(2000)) + bytes(2000))
    assert f"has a sampling rate of {rate} Hz, which is not from 1000 to 1000000" in message


@pytest.mark.parametrize("rate", [1000, 1_000_000])
def test_the_slowest_and_the_fastest_rates_are_read(rate):
    assert len(load_audio(header(rate, bytes(2000)) + bytes(2000))) == 16000 * 1000 // rate


# ---- the cases of bug reports

CASES = {
    "chained.ogg": (40000, 16000),
    "gsm610.wav": (10240, 8000),
    "mp3_in_wav.wav": (21312, 16000),
    "nox_5_v4.mp3": (222336, 44100),
    "size_data0_riff_ok.wav": (20000, 16000),
    "soxcbr.mp3": (222336, 44100),
}


@pytest.mark.parametrize("name", CASES)
def test_reported_files_are_read_completely(name):
    path = Path(__file__).parents[3] / "shared" / "cases" / name
    if not path.exists():
        pytest.skip(f"needs {path}")
    samples, rate = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(load_audio(path, rate)) == samples
