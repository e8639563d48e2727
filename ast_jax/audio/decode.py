"""Reads sound files."""

import io
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from ast_jax.errors import InputError, first_line, quoted


def load_audio(
    path: str | os.PathLike[str] | bytes | BinaryIO, sampling_rate: int = 16000
) -> Float32[np.ndarray, " samples"]:
    """Decodes a sound file, mixes it to mono and resamples it.

    Averages the channels and resamples with soxr's "HQ" recipe, as
    `librosa.load(..., res_type="soxr_hq")` does.

    Truncated files are rejected where the format permits: WAV, AIFF, AU and related formats
    state the length of their data, FLAC and MP3 the number of samples, and Ogg marks its last
    page. Truncation is undetectable in an MP3 without a Xing header, in a WAV without a length
    in its header (written to a pipe), and up to 8 bytes in W64 and CAF: the remaining samples
    are returned. FLAC without a length is rejected, as libsndfile needs the length.

    Args:
        path: a file in any format that libsndfile reads (WAV, FLAC, Ogg, MP3, …), with any
            number of channels and any sampling rate; or its content, as bytes or as a file object
            opened in binary mode, which is read from its position to its end.
        sampling_rate: the sampling rate of the result, in Hz.

    Returns:
        The waveform, in [-1, 1] unless the file holds larger floats. `n` samples at `rate`
        become ⌈n · sampling_rate / rate⌉.

    Raises:
        InputError: the file is missing, empty, truncated or not audio, or has no samples or
            NaN or infinite ones.
    """
    if sampling_rate != int(sampling_rate) or sampling_rate <= 0:
        raise InputError(f"sampling_rate is {sampling_rate}: give a positive whole number of Hz")
    file: Path | io.BytesIO
    if isinstance(path, str | os.PathLike):
        file = Path(os.fsdecode(path))
        name, size = str(file), _file_size(file)
    else:
        name, content = _read_content(path)
        file, size = io.BytesIO(content), len(content)
    if size == 0:
        raise InputError(f"{name} is empty: restore it or leave it out")

    audio, rate = _decode(file, name)
    if not len(audio):
        raise InputError(f"{name} holds no samples: restore it or leave it out")
    # A NaN or an infinity in any channel makes the mean NaN or infinite.
    with np.errstate(all="ignore"):
        mono = audio.mean(axis=1)
    if not np.isfinite(mono).all():
        raise InputError(f"{name} holds NaN or infinite samples: repair it or leave it out")
    return resample(mono, rate, int(sampling_rate))


def _file_size(path: Path) -> int:
    """Returns the size of a file in bytes; raises InputError if there is none."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL
        advice = "give the path of a sound file"
        if re.match(r"\w+:/", str(path)):  # `Path` merges the slashes of a URL
            advice = "download the file first and give its path"
        raise InputError(f"{path} does not exist: {advice}") from error
    except OSError as error:
        raise InputError(
            f"{quoted(path)} cannot be read ({error.strerror}): give the path of a sound file"
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a folder: give the path of a sound file")
    return status.st_size


def _read_content(file: bytes | BinaryIO) -> tuple[str, bytes]:
    """Returns a name for messages, and the content of a file object or of bytes."""
    if isinstance(file, bytes | bytearray | memoryview):
        return "the sound given as bytes", bytes(file)
    if not hasattr(file, "read"):
        raise InputError(
            f"{type(file).__name__} is not a sound file: give a path, bytes or a file object"
        )
    name = getattr(file, "name", None)
    name = name if isinstance(name, str) else "the file object"
    try:
        content = file.read()
    except (OSError, ValueError) as error:  # closed, or not opened for reading
        raise InputError(f"{name} cannot be read ({first_line(error)}): open it again") from error
    if not isinstance(content, bytes):
        raise InputError(
            f"{name} has {type(content).__name__} and not bytes: open it in the mode 'rb'"
        )
    return name, content


def _decode(
    file: Path | io.BytesIO, name: str
) -> tuple[Float32[np.ndarray, "samples channels"], int]:
    """Returns the file's samples and its sampling rate in Hz."""
    stated = 0
    try:
        # One read: soundfile seeks between parts, which changes decoded MP3.
        with soundfile.SoundFile(file) as sound:
            stated, rate, log = sound.frames, sound.samplerate, sound.extra_info
            audio = sound.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"{name} cannot be read as audio, it is damaged or in an unknown format "
            f"(libsndfile: {error.error_string.rstrip('.')}): restore it or convert it to WAV"
        ) from error
    except TypeError as error:  # soundfile raises it for *.raw
        raise InputError(
            f"{name} has no header that gives its sampling rate: convert it to WAV"
        ) from error
    except UnicodeError as error:
        raise InputError(
            f"{file!r} has a name that is not UTF-8, which libsndfile cannot open: rename it"
        ) from error
    except (MemoryError, ValueError) as error:
        raise InputError(
            f"{name} states no length, or one that does not fit in memory ({stated} samples per "
            "channel): convert it to WAV, in parts if it is that long"
        ) from error

    if len(audio) < stated or _is_truncated(log):
        raise InputError(
            f"{name} is truncated to {len(audio)} samples per channel: restore it, or convert "
            "what is left to WAV"
        )
    return audio, rate


def _is_truncated(log: str) -> bool:
    """Returns whether libsndfile's log of opening a file reports a missing end.

    libsndfile reads a truncated file without an error. Its log has a size that exceeds the file
    as "data : 64000 (should be 63998)".
    """
    if "Last page lacks an end-of-stream bit" in log or "Junk after the last page" in log:
        return True
    for name, stated, found in re.findall(
        r"^\s*(\w[\w ]*?)\s*: (\d+) \(should be (\d+)\)$", log, re.MULTILINE
    ):
        # Many programs state an outer size that is off by a padding byte or by the 8 bytes of
        # the outer header, around a complete data chunk.
        slack = 8 if name.lower() in ("riff", "form") else 0
        unknown = int(stated) >= 0x7FFFF000  # sox; ffmpeg writes 0xFFFFFFFF
        if int(stated) > int(found) + slack and not unknown:
            return True
    return False


def resample(
    waveform: Float32[np.ndarray, " samples"], rate: int, new_rate: int
) -> Float32[np.ndarray, " resampled"]:
    """Resamples to ⌈samples · new_rate / rate⌉ samples, with soxr's "HQ" recipe."""
    if rate == new_rate:
        return waveform
    resampled = soxr.resample(waveform, rate, new_rate, quality="HQ")
    length = -(-len(waveform) * new_rate // rate)
    return np.pad(resampled[:length], (0, max(0, length - len(resampled))))
