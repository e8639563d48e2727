"""Cases of sound files: damaged, hostile and odd ones of every format that libsndfile writes."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import soundfile

from ast_jax.audio.decode import read_recording
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.errors import InputError
from tests.fuzz.harness import WrongAnswerError

RATES = [1000, 8000, 11025, 16000, 16000, 22050, 44100, 44100, 48000, 96000, 192000]
KINDS = [
    *(("WAV", subtype) for subtype in ("PCM_16", "PCM_24", "FLOAT", "DOUBLE", "MS_ADPCM")),
    ("WAV", "GSM610"),
    *(("AIFF", subtype) for subtype in ("PCM_16", "FLOAT")),
    *(("AU", subtype) for subtype in ("PCM_16", "G721_32", "ULAW")),
    *(("CAF", subtype) for subtype in ("PCM_16", "ALAC_16")),
    ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"), ("W64", "PCM_16"), ("RF64", "PCM_16"), ("VOC", "PCM_16"),
    ("NIST", "PCM_16"), ("SVX", "PCM_16"),
]  # fmt: skip
EXTRACTOR = ASTFeatureExtractor(max_length=128)
SOUNDS = Path(__file__).parents[1] / "audio" / "sounds"


def make(rng):
    """Returns the content of a random sound file, its samples, rate and subtype."""
    while True:
        format, subtype = KINDS[rng.integers(len(KINDS))]
        rate = int(rng.choice(RATES))
        if format == "SVX":
            rate = min(rate, 48000)  # it stores 16 bits of it
        channels = int(rng.choice([1, 1, 2, 2, 3, 6]))
        samples = rng.uniform(-0.7, 0.7, (int(rng.integers(0, 30000)), channels))
        file = io.BytesIO()
        try:
            soundfile.write(file, samples, rate, subtype, format=format)
        except (ValueError, RuntimeError):  # not every format has every rate and channel
            continue
        return bytearray(file.getvalue()), samples, rate, subtype


def read(source, rng):
    """Reads a sound and returns it with a limit; raises WrongAnswerError if it is no waveform."""
    limit = None if rng.random() < 0.5 else int(rng.integers(1, 40000))
    recording = read_recording(source, 16000, max_samples=limit, scale_loud=rng.random() < 0.3)
    waveform = recording.waveform
    if waveform.dtype != np.float32 or waveform.ndim != 1 or not np.isfinite(waveform).all():
        raise WrongAnswerError(f"{waveform.dtype} {waveform.shape}, not finite")
    if limit and len(waveform) > limit:
        raise WrongAnswerError(f"{len(waveform)} samples instead of {limit}")
    if len(waveform) >= 400:
        EXTRACTOR(waveform, 16000)
    return recording, limit


def load(seed, folder):
    """Reads a random file after a random change; an unchanged one must be read completely."""
    rng = np.random.default_rng(seed)
    content, samples, rate, subtype = make(rng)
    changes = [unchanged, unchanged, flip, flip, cut, grow, splice, zero, header_number, repeat]
    change = changes[rng.integers(len(changes))]
    changed = change(rng, content)
    form = ["path", "path", "bytes", "file"][rng.integers(4)]
    path = folder / "a.wav"
    path.write_bytes(changed)
    source = {"path": path, "bytes": bytes(changed), "file": io.BytesIO(changed)}[form]
    try:
        recording, limit = read(source, rng)
    except InputError as error:
        if change is unchanged and len(samples):
            raise WrongAnswerError(f"{subtype} {rate} {samples.shape}: {error}") from error
        raise
    if change is unchanged:
        check(recording, limit, samples, rate, subtype)


def check(recording, limit, samples, rate, subtype):
    """Raises WrongAnswerError if a sound file was not read as it was written."""
    expected = -(-len(samples) * 16000 // rate)
    # Formats of blocks pad the last, and MP3 its end.
    slack = 0 if subtype.startswith(("PCM", "FLOAT", "DOUBLE")) else 5000 * 16000 // rate
    if limit is None and not expected <= len(recording.waveform) <= expected + slack:
        raise WrongAnswerError(f"{subtype}: {len(recording.waveform)} samples of {expected}")
    if subtype in ("FLOAT", "DOUBLE") and rate == 16000:
        mono = samples.astype(np.float32).mean(axis=1)[:limit]
        if not np.array_equal(recording.waveform, mono):
            raise WrongAnswerError(f"{subtype}: other samples")


def unchanged(rng, content):
    """Returns the content."""
    return content


def flip(rng, content):
    """Changes some bytes, mostly at the beginning."""
    for _ in range(rng.integers(1, 20)):
        end = len(content) if rng.random() < 0.3 else min(len(content), 120)
        content[rng.integers(end)] = rng.integers(256)
    return content


def cut(rng, content):
    """Cuts the end off."""
    return content[: rng.integers(len(content))]


def grow(rng, content):
    """Appends random bytes."""
    return content + rng.bytes(int(rng.integers(1, 5000)))


def splice(rng, content):
    """Inserts random bytes, or removes some."""
    at = int(rng.integers(len(content)))
    if rng.random() < 0.5:
        return content[:at] + rng.bytes(int(rng.integers(1, 3000))) + content[at:]
    return content[:at] + content[at + int(rng.integers(1, 3000)) :]


def zero(rng, content):
    """Sets a stretch to 0 or 255."""
    at = int(rng.integers(len(content)))
    count = min(int(rng.integers(1, 2000)), len(content) - at)
    content[at : at + count] = bytes([int(rng.choice([0, 255]))]) * count
    return content


def header_number(rng, content):
    """Writes a number that programs stumble over into the header."""
    number = int(rng.choice([0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 10**9]))
    at = int(rng.integers(0, min(len(content) - 4, 100)))
    content[at : at + 4] = struct.pack(str(rng.choice(["<I", ">I"])), number)
    return content


def repeat(rng, content):
    """Joins the file with itself or with another."""
    return content + (content if rng.random() < 0.5 else make(rng)[0])


def container(seed, folder):
    """Reads a damaged MP4 file, with ffmpeg where it is installed."""
    rng = np.random.default_rng(seed)
    content = bytearray((SOUNDS / "aac.m4a").read_bytes())
    change = [flip, cut, grow, splice, zero, header_number][rng.integers(6)]
    path = folder / "a.m4a"
    path.write_bytes(change(rng, content))
    read(path, rng)


def header(channels, rate, size, bits=16, tag=1):
    """Returns the header of a WAV file."""
    align = channels * bits // 8
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", (36 + size) % 2**32, b"WAVE", b"fmt ", 16, tag, channels, rate % 2**32),
        *(rate * align % 2**32, align % 2**16, bits, b"data", size % 2**32),
    )


def huge(seed, folder):
    """Reads files that would take gigabytes or minutes if they were taken at their word."""
    path = folder / "a.wav"
    which = seed % 8
    if which == 0:  # 28 hours at 1 Hz
        path.write_bytes(header(1, 1, 200_000) + bytes(200_000))
    elif which == 1:  # minutes of 8 channels in a small FLAC
        with soundfile.SoundFile(path, "w", 44100, 8, format="FLAC") as sound:
            silence = np.zeros((44100 * 60, 8), np.int16)
            for _ in range(4):
                sound.write(silence)
    elif which == 2:  # 4 GB of silence that take no room on the disk
        path.write_bytes(header(2, 44100, 2**32 - 100))
        os.truncate(path, 2**32 - 64)
    elif which == 3:  # 1024 channels
        path.write_bytes(header(1024, 16000, 2**25) + bytes(2**25))
    elif which == 4:
        path.write_bytes(header(1, 1000, 2**26, 8) + bytes(2**26))
    elif which == 5:
        path.write_bytes(header(1, 10**6, 2**27) + bytes(2**27))
    elif which == 6:
        samples = np.full(50000, 3e38, np.float32)
        path.write_bytes(header(1, 44100, 200_000, 32, 3) + samples.tobytes())
    else:
        path = Path("/dev/zero")
    recording = read_recording(path, 16000, max_samples=EXTRACTOR.max_samples)
    if not np.isfinite(recording.waveform).all():
        raise WrongAnswerError("not finite")
