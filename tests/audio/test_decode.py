import io
import struct
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.audio import decode
from ast_jax.audio.decode import load_audio, open_recording, read_recording, resample
from ast_jax.errors import InputError, one_line

# libsndfile's name of each format, and the sampling rate to write it at
KINDS = {
    "wav": ("WAV", "PCM_16", 16000),
    "float.wav": ("WAV", "FLOAT", 16000),
    "adpcm.wav": ("WAV", "MS_ADPCM", 16000),
    "flac": ("FLAC", "PCM_16", 16000),
    "ogg": ("OGG", "VORBIS", 16000),
    "opus.ogg": ("OGG", "OPUS", 48000),
    "mp3": ("MP3", "MPEG_LAYER_III", 16000),
    "aiff": ("AIFF", "PCM_16", 16000),
    "au": ("AU", "PCM_16", 16000),
    "caf": ("CAF", "PCM_16", 16000),
    "w64": ("W64", "PCM_16", 16000),
    "rf64": ("RF64", "PCM_16", 16000),
}


def noise(frames, channels=1, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (frames, channels)).astype(np.float32)


def write(path, samples, rate=16000, subtype="PCM_16", format=None):
    soundfile.write(path, samples, rate, subtype, format=format)
    return path


def message_of(path, **options):
    """Returns the message of the InputError that `path` raises."""
    with pytest.raises(InputError) as caught:
        load_audio(path, **options)
    message = str(caught.value)
    assert one_line(str(path)) in message
    assert "\n" not in message
    return message


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Returns a folder whose file all examples of a property overwrite."""
    return tmp_path_factory.mktemp("decode")


@settings(max_examples=60, deadline=None)
@given(
    frames=st.one_of(st.integers(1, 3000), st.just(70001)),
    channels=st.sampled_from([1, 2, 3, 4, 5, 6, 9, 17]),
    rate=st.one_of(
        st.sampled_from([8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000]),
        st.integers(1000, 192000),
    ),
    new_rate=st.sampled_from([8000, 16000, 32000]),
    seed=st.integers(0, 99),
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # librosa's own imports
def test_any_rate_and_channel_count_matches_librosa(folder, frames, channels, rate, new_rate, seed):
    import librosa

    samples = noise(frames, channels, seed)
    path = write(folder / "any.wav", samples, rate, "FLOAT")
    ours = load_audio(path, new_rate)
    assert ours.dtype == np.float32
    assert ours.shape == (int(np.ceil(round(frames * new_rate / rate, 6))),)

    theirs = librosa.resample(
        samples.mean(axis=1), orig_sr=rate, target_sr=new_rate, res_type="soxr_hq"
    )
    # librosa computes the length from a rounded ratio, and may add a zero at the end.
    assert 0 <= len(theirs) - len(ours) <= 1
    np.testing.assert_array_equal(ours, theirs[: len(ours)])
    assert not theirs[len(ours) :].any()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_stereo_cd_file_matches_librosa_load(tmp_path):
    import librosa

    path = write(tmp_path / "cd.flac", noise(44100, 2), 44100)
    theirs, _ = librosa.load(path, sr=16000, res_type="soxr_hq")
    np.testing.assert_array_equal(load_audio(path), theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_read_completely(tmp_path, kind):
    format, subtype, rate = KINDS[kind]
    samples = noise(2 * rate)
    loaded = load_audio(write(tmp_path / f"a.{kind}", samples, rate, subtype, format), rate)
    assert loaded.dtype == np.float32
    assert 2 * rate <= len(loaded) < 2 * rate + 1100  # ADPCM pads its last block
    if "PCM_16" in subtype:
        np.testing.assert_allclose(loaded, samples[:, 0], atol=1.1 / 32768)
    if subtype == "FLOAT":
        np.testing.assert_array_equal(loaded, samples[:, 0])


def test_floats_beyond_one_are_not_clipped(tmp_path):
    samples = 4 * noise(1000)
    path = write(tmp_path / "loud.wav", samples, subtype="FLOAT")
    with pytest.warns(UserWarning, match=f"^{path} reaches 1.99.*, and samples are expected in"):
        np.testing.assert_array_equal(load_audio(path), samples[:, 0])


def test_a_loud_waveform_is_scaled_on_demand(tmp_path):
    samples = 4 * noise(1000)
    path = write(tmp_path / "loud.wav", samples, subtype="FLOAT")
    peak = np.abs(samples).max()
    scaled = read_recording(path, 16000, scale_loud=True)
    np.testing.assert_array_equal(scaled.waveform, samples[:, 0] / peak)
    assert (scaled.peak, scaled.level_note) == (peak, "")
    quiet = write(tmp_path / "quiet.wav", noise(1000), subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(quiet, scale_loud=True), load_audio(quiet))


@pytest.mark.parametrize("rate", [16000, 44100])
def test_huge_samples_are_refused_by_their_size(tmp_path, rate):
    samples = noise(1000, 2)
    samples[500] = 3e38
    path = write(tmp_path / "huge.wav", samples, rate, "FLOAT")
    assert "huge.wav reaches 3e+38: scale it to [-1, 1]" in message_of(path)
    with pytest.raises(InputError, match=r"the waveform reaches 3e\+38: scale it"):
        resample(samples[:, 0], 44100, 16000)


# ---- long files


@settings(max_examples=30, deadline=None)
@given(
    rate=st.sampled_from([8000, 16000, 16001, 44100, 192000]),
    max_samples=st.one_of(st.integers(1, 200), st.integers(1, 120000)),
    format=st.sampled_from(["WAV", "FLAC", "OGG"]),
)
def test_the_beginning_is_that_of_the_whole(folder, rate, max_samples, format):
    path = write(folder / "long", noise(100000, 2), rate, None, format)
    whole = load_audio(path)
    found = read_recording(path, 16000, max_samples=max_samples)
    np.testing.assert_array_equal(found.waveform, whole[:max_samples])
    assert found.seconds == 100000 / rate


def test_what_follows_the_beginning_is_not_read(tmp_path):
    samples = noise(200000)
    samples[150000] = np.nan
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(path, max_samples=50000), samples[:50000, 0])
    assert "NaN or infinite" in message_of(path)


def test_more_samples_than_the_limit_are_refused(tmp_path, monkeypatch):
    assert decode.MAX_SAMPLES == 2**28
    monkeypatch.setattr(decode, "MAX_SAMPLES", 50000)
    path = write(tmp_path / "a.wav", noise(100001), 32000)
    assert "has more than 50000 samples at 16000 Hz: cut it into parts" in message_of(path)
    assert len(load_audio(path, max_samples=40000)) == 40000
    assert len(load_audio(write(tmp_path / "a.wav", noise(100000), 32000))) == 50000


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_blocks_joined_are_the_whole_without_a_limit(tmp_path, monkeypatch, rate):
    path = write(tmp_path / "a.flac", noise(200001, 2), rate)
    expected = load_audio(path)
    monkeypatch.setattr(decode, "MAX_SAMPLES", 50000)
    with open_recording(path, 16000) as stream:
        assert (stream.rate, stream.seconds, stream.note) == (rate, 200001 / rate, "")
        blocks = list(stream)
        assert stream.seconds == 200001 / rate
    np.testing.assert_array_equal(np.concatenate(blocks), expected)
    assert max(map(len, blocks)) <= 2 * 2**15 * 16000 // rate


def test_the_level_of_a_recording_is_known_once_it_is_read(tmp_path):
    samples = noise(100000)
    samples[90000] = 3
    with open_recording(write(tmp_path / "a.wav", samples, subtype="FLOAT"), 16000) as stream:
        notes = [stream.level_note for _ in stream]
    assert notes[0] == ""
    assert notes[-1].startswith(f"{tmp_path}/a.wav reaches 3, and samples are expected in [-1, 1]")


def test_a_real_recording_is_resampled_to_16_khz(esc10):
    path = min((esc10 / "audio").glob("*.ogg"))
    with soundfile.SoundFile(path) as file:
        expected = -(-file.frames * 16000 // file.samplerate)
    assert load_audio(path).shape == (expected,)


# ---- the content of files


@pytest.mark.parametrize("kind", KINDS)
def test_the_content_of_a_file_gives_what_the_file_gives(tmp_path, kind):
    format, subtype, rate = KINDS[kind]
    path = write(tmp_path / f"a.{kind}", noise(rate, 2), rate, subtype, format)
    expected, content = load_audio(path), path.read_bytes()
    with path.open("rb") as file, tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(content)
        spooled.seek(0)
        for source in (content, bytearray(content), memoryview(content), file, spooled):
            np.testing.assert_array_equal(load_audio(source), expected)


def test_a_file_object_is_read_from_its_position(tmp_path):
    content = write(tmp_path / "a.wav", noise(1000)).read_bytes()
    file = io.BytesIO(b"header" + content)
    file.seek(6)
    np.testing.assert_array_equal(load_audio(file), load_audio(tmp_path / "a.wav"))
    with pytest.raises(InputError, match="the file object is empty"):
        load_audio(file)


def closed_file():
    file = io.BytesIO(b"RIFF")
    file.close()
    return file


@pytest.mark.parametrize(
    ("source", "named"),
    [
        (b"", "the sound given as bytes is empty"),
        (b"no sound" * 99, "the sound given as bytes cannot be read as audio"),
        (io.StringIO("text"), "the file object has str and not bytes: open it in the mode 'rb'"),
        (closed_file(), r"the file object cannot be read \(I/O operation on closed file"),
        (None, "NoneType is not a sound file: give a path, bytes or a file object"),
        (noise(5), "ndarray is not a sound file"),
    ],
)
def test_content_that_cannot_be_read_is_refused(source, named):
    with pytest.raises(InputError, match=f"^{named}") as caught:
        load_audio(source)
    assert "\n" not in str(caught.value)


def test_an_unusable_file_object_is_named_by_its_path(tmp_path):
    path = write(tmp_path / "a.wav", noise(1000))
    with path.open() as text, pytest.raises(InputError, match=f"^{path} "):
        load_audio(text)
    path.write_bytes(path.read_bytes()[:-100])
    with path.open("rb") as file, pytest.raises(InputError, match=f"^{path} is truncated"):
        load_audio(file)


# ---- truncated files


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.77, 0.99])
@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_refused(tmp_path, kind, fraction):
    format, subtype, rate = KINDS[kind]
    path = write(tmp_path / f"a.{kind}", noise(2 * rate), rate, subtype, format)
    data = path.read_bytes()
    path.write_bytes(data[: int(fraction * len(data))])
    assert "restore it" in message_of(path)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("w64", "caf")])
def test_a_file_that_lacks_its_last_bytes_is_refused(tmp_path, kind):
    # W64 and CAF are excluded: libsndfile does not report a loss of up to 8 bytes in them.
    format, subtype, rate = KINDS[kind]
    path = write(tmp_path / f"a.{kind}", noise(2 * rate), rate, subtype, format)
    path.write_bytes(path.read_bytes()[:-2])
    assert "restore it" in message_of(path)


@pytest.mark.parametrize("kind", ["ogg", "opus.ogg"])
def test_an_ogg_file_cut_between_two_pages_is_refused(tmp_path, kind):
    format, subtype, rate = KINDS[kind]
    path = write(tmp_path / f"a.{kind}", noise(3 * rate), rate, subtype, format)
    data = path.read_bytes()
    path.write_bytes(data[: data.rfind(b"OggS")])
    assert "truncated" in message_of(path)


def test_truncation_is_detected_after_long_metadata(tmp_path):
    # libsndfile's log has at most 2 kB, which the metadata fills.
    ogg = tmp_path / "a.ogg"
    with soundfile.SoundFile(ogg, "w", 16000, 1, format="OGG") as file:
        file.comment = file.title = "x" * 1900
        file.write(noise(48000))
    assert len(load_audio(ogg)) == 48000
    ogg.write_bytes(ogg.read_bytes()[:-3000])
    assert "truncated" in message_of(ogg)

    wav = write(tmp_path / "a.wav", noise(16000))
    data = wav.read_bytes()
    many = (b"note" + struct.pack("<I", 4) + b"abcd") * 500
    data = data[:4] + struct.pack("<I", len(data) + len(many) - 8) + data[8:36] + many + data[36:]
    wav.write_bytes(data)
    assert len(load_audio(wav)) == 16000
    wav.write_bytes(data[:-3000])
    assert "truncated" in message_of(wav)


def with_sizes(data, riff=None, samples=None):
    """Returns a WAV file's bytes with other sizes in its header."""
    riff = len(data) - 8 if riff is None else riff
    samples = len(data) - 44 if samples is None else samples
    return data[:4] + struct.pack("<I", riff) + data[8:40] + struct.pack("<I", samples) + data[44:]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda d: with_sizes(d, 0xFFFFFFFF, 0xFFFFFFFF), id="ffmpeg to a pipe"),
        pytest.param(lambda d: with_sizes(d, 0x7FFFF024, 0x7FFFF000), id="sox to a pipe"),
        pytest.param(lambda d: with_sizes(d, riff=len(d)), id="outer size counts its header"),
        pytest.param(lambda d: d + b"LIST\x04\0\0\0INFO", id="outer size leaves out metadata"),
    ],
)
def test_a_complete_wav_with_wrong_sizes_in_its_header_is_read(tmp_path, change):
    path = write(tmp_path / "a.wav", noise(8000))
    expected = load_audio(path)
    path.write_bytes(change(path.read_bytes()))
    np.testing.assert_array_equal(load_audio(path), expected)


def test_a_wav_of_odd_length_without_its_padding_byte_is_read(tmp_path):
    path = write(tmp_path / "a.wav", noise(1001), subtype="PCM_U8")
    path.write_bytes(path.read_bytes()[:-1])
    assert len(load_audio(path)) == 1001


def test_an_mp3_with_a_tag_at_its_end_is_read(tmp_path):
    path = write(tmp_path / "a.mp3", noise(16000), subtype="MPEG_LAYER_III")
    path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))
    assert len(load_audio(path)) == 16000


# ---- invalid files


def test_a_missing_file_is_refused(tmp_path):
    assert "does not exist" in message_of(tmp_path / "none.wav")


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    assert "does not exist" in message_of(tmp_path / "a\0b")
    with pytest.raises(
        InputError, match=r"…' cannot be read \(File name too long\): give the path"
    ):
        load_audio("x" * 5000)


def test_a_url_is_not_taken_for_a_misspelled_path():
    with pytest.raises(InputError, match=r"a\.wav does not exist: download the file first"):
        load_audio("https://example.org/a.wav")


def test_a_folder_is_refused(tmp_path):
    assert "is a folder" in message_of(tmp_path)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a"])
def test_an_empty_file_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    assert "is empty" in message_of(tmp_path / name)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.txt"])
@pytest.mark.parametrize("content", [b"not audio " * 100, bytes(5000), b"RIFF", b"fLaC", b"\xff"])
def test_a_file_that_is_not_audio_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "cannot be read as audio" in message_of(tmp_path / name)


def test_raw_samples_are_refused(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    assert "no header" in message_of(tmp_path / "a.raw")


@pytest.mark.parametrize("format", ["WAV", "OGG"])
def test_a_file_without_samples_is_refused(tmp_path, format):
    subtype = "PCM_16" if format == "WAV" else "VORBIS"
    path = write(tmp_path / f"a.{format.lower()}", noise(0), subtype=subtype)
    assert "no samples" in message_of(path)


@pytest.mark.parametrize("bad", [[np.nan, 0], [0, np.inf], [np.inf, -np.inf], [-np.inf, np.nan]])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_nan_and_infinity_in_any_channel_are_refused(tmp_path, bad, rate):
    samples = noise(1000, 2)
    samples[500] = bad
    path = write(tmp_path / "a.wav", samples, rate, "FLOAT")
    assert "NaN or infinite" in message_of(path)


def test_a_header_with_more_samples_than_fit_in_memory_is_refused(tmp_path):
    path = write(tmp_path / "a.flac", noise(16000))
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # sets STREAMINFO's number of samples to about 2**36
    path.write_bytes(data)
    message_of(path)


@pytest.mark.parametrize("rate", [0, -16000, 16000.5])
def test_an_impossible_sampling_rate_is_refused(tmp_path, rate):
    path = write(tmp_path / "a.wav", noise(100))
    with pytest.raises(InputError, match="sampling_rate"):
        load_audio(path, rate)


def test_decoding_imports_neither_librosa_nor_a_framework():
    heavy = "{'librosa', 'numba', 'torch', 'tensorflow', 'transformers'}"
    code = f"import sys, ast_jax.audio.decode; print({heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
