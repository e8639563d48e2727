"""Reads sound files."""

import os
import re
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ast_jax.errors import InputError


def load_audio(path: str | os.PathLike[str], sampling_rate: int = 16000) -> np.ndarray:
    """Reads a sound file as one channel at one sampling rate.

    The channels are averaged and the result is resampled by soxr's "HQ" recipe, both as
    `librosa.load(..., res_type="soxr_hq")` does.

    A file that was cut short is refused wherever its format lets that be seen: WAV, AIFF, AU
    and their kin state the length of their data, FLAC and MP3 the number of samples, and the
    last page of an Ogg file says that it is the last. It cannot be seen in an MP3 without a
    Xing header, in a WAV whose header leaves the length open (as programs that write to a
    pipe do), nor for a loss of up to 8 bytes in W64 and CAF: those give the samples there are.
    FLAC that leaves its length open is refused, as the reader needs it.

    Args:
        path: a file in any format that libsndfile reads (WAV, FLAC, Ogg, MP3, …), with any
            number of channels and any sampling rate.
        sampling_rate: of the result, in Hz.

    Returns:
        float32 (samples,), in [-1, 1] unless the file holds larger floats. `n` samples at
        `rate` become ⌈n · sampling_rate / rate⌉.

    Raises:
        InputError: the file is missing, empty, truncated or not audio, or holds no samples,
            or NaN or infinite ones.
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
    # A NaN or an infinity in any channel leaves one in the mean, of which the check tells.
    with np.errstate(all="ignore"):
        mono = audio.mean(axis=1)
    if not np.isfinite(mono).all():
        raise InputError(f"{path} holds NaN or infinite samples: repair it or leave it out")
    return _resample(mono, rate, int(sampling_rate))


def _decode(path: Path) -> tuple[np.ndarray, int]:
    """The file's samples, float32 (frames, channels), and its sampling rate in Hz."""
    promised = 0
    try:
        # One read: MP3 decoded in parts differs, as soundfile seeks between the parts.
        with soundfile.SoundFile(path) as file:
            promised, rate, log = file.frames, file.samplerate, file.extra_info
            audio = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"{path} cannot be read as audio, being damaged or of an unknown format "
            f"(libsndfile says: {error.error_string.rstrip('.')}): restore it or convert it to WAV"
        ) from error
    except TypeError as error:  # how soundfile refuses *.raw
        raise InputError(
            f"{path} has no header that gives its sampling rate: convert it to WAV"
        ) from error
    except UnicodeError as error:
        raise InputError(
            f"{path!r} has a name that is no UTF-8, which libsndfile cannot open: rename it"
        ) from error
    except (MemoryError, ValueError) as error:
        raise InputError(
            f"{path} does not say how long it is, or says more ({promised} samples a channel) "
            "than fits in memory: convert it to WAV, in parts if it is so long"
        ) from error

    if len(audio) < promised or _is_cut_short(log):
        raise InputError(
            f"{path} is truncated, with only {len(audio)} samples a channel left: restore it "
            "or convert it to WAV as it is"
        )
    return audio, rate


def _is_cut_short(log: str) -> bool:
    """Whether libsndfile noted, in its log of opening a file, that the file lacks its end.

    libsndfile reads such a file without an error. It writes a size that goes past the end of
    the file as "data : 64000 (should be 63998)".
    """
    if "Last page lacks an end-of-stream bit" in log or "Junk after the last page" in log:
        return True
    for name, stated, found in re.findall(
        r"^\s*(\w[\w ]*?)\s*: (\d+) \(should be (\d+)\)$", log, re.MULTILINE
    ):
        # Around a whole data chunk, many programs state a size that is off by a padding byte
        # or by the 8 bytes of the outer header.
        slack = 8 if name.lower() in ("riff", "form") else 0
        left_open = int(stated) >= 0x7FFFF000  # sox; ffmpeg writes 0xFFFFFFFF
        if int(stated) > int(found) + slack and not left_open:
            return True
    return False


def _resample(waveform: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """(samples,) at `rate` → (⌈samples · new_rate / rate⌉,) at `new_rate`."""
    if rate == new_rate:
        return waveform
    resampled = soxr.resample(waveform, rate, new_rate, quality="HQ")
    length = -(-len(waveform) * new_rate // rate)
    return np.pad(resampled[:length], (0, max(0, length - len(resampled))))
