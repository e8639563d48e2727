"""Reads sound files."""

import os
import re
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from ast_jax.errors import InputError


def load_audio(
    path: str | os.PathLike[str], sampling_rate: int = 16000
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
            number of channels and any sampling rate.
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
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the path of a sound file")
    if not path.exists():
        raise InputError(f"{path} does not exist: give the path of a sound file")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: restore it or leave it out")

    audio, rate = _decode(path)
    if not len(audio):
        raise InputError(f"{path} holds no samples: restore it or leave it out")
    # A NaN or an infinity in any channel makes the mean NaN or infinite.
    with np.errstate(all="ignore"):
        mono = audio.mean(axis=1)
    if not np.isfinite(mono).all():
        raise InputError(f"{path} holds NaN or infinite samples: repair it or leave it out")
    return _resample(mono, rate, int(sampling_rate))


def _decode(path: Path) -> tuple[Float32[np.ndarray, "samples channels"], int]:
    """Returns the file's samples and its sampling rate in Hz."""
    stated = 0
    try:
        # One read: soundfile seeks between parts, which changes decoded MP3.
        with soundfile.SoundFile(path) as file:
            stated, rate, log = file.frames, file.samplerate, file.extra_info
            audio = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"{path} cannot be read as audio, it is damaged or in an unknown format "
            f"(libsndfile: {error.error_string.rstrip('.')}): restore it or convert it to WAV"
        ) from error
    except TypeError as error:  # soundfile raises it for *.raw
        raise InputError(
            f"{path} has no header that gives its sampling rate: convert it to WAV"
        ) from error
    except UnicodeError as error:
        raise InputError(
            f"{path!r} has a name that is not UTF-8, which libsndfile cannot open: rename it"
        ) from error
    except (MemoryError, ValueError) as error:
        raise InputError(
            f"{path} states no length, or one that does not fit in memory ({stated} samples per "
            "channel): convert it to WAV, in parts if it is that long"
        ) from error

    if len(audio) < stated or _is_truncated(log):
        raise InputError(
            f"{path} is truncated to {len(audio)} samples per channel: restore it, or convert "
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


def _resample(
    waveform: Float32[np.ndarray, " samples"], rate: int, new_rate: int
) -> Float32[np.ndarray, " resampled"]:
    """Resamples to ⌈samples · new_rate / rate⌉ samples."""
    if rate == new_rate:
        return waveform
    resampled = soxr.resample(waveform, rate, new_rate, quality="HQ")
    length = -(-len(waveform) * new_rate // rate)
    return np.pad(resampled[:length], (0, max(0, length - len(resampled))))
