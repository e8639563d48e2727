"""Reads sound files as waveforms: mono, at one sampling rate."""

import warnings
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

import numpy as np
import soxr
from jaxtyping import Float32

from ast_jax.audio.ffmpeg import format_of, read_with_ffmpeg
from ast_jax.audio.pcm import peak_of
from ast_jax.audio.resampler import Resampler
from ast_jax.audio.source import SoundFile, Source, open_source
from ast_jax.audio.streams import Stream, UnknownFormatError, read_streams
from ast_jax.audio.waveform import SAMPLING_RATES, check_peak, check_sampling_rate, mix_to_mono
from ast_jax.errors import InputError

MAX_SAMPLES = 2**28  # of a waveform, 1 GB: 4.6 hours at 16 kHz
LOUD = 1.5  # decoders of MP3 and Vorbis go beyond 1 by less


class Recording(NamedTuple):
    """A sound file as a waveform.

    Attributes:
        waveform: (samples,), mono, at the sampling rate that was asked for.
        seconds: the length of the file, as its header states it if only the beginning was read;
            None if that is unknown.
        peak: the largest absolute value of the waveform, before it was scaled.
        note: a sentence about the header, '' for none.
        level_note: a sentence about samples in the file beyond 1.5 if they are not scaled, ''
            for none.
    """

    waveform: Float32[np.ndarray, " samples"]
    seconds: float | None
    peak: float
    note: str
    level_note: str


def load_audio(
    path: SoundFile,
    sampling_rate: int = 16000,
    *,
    max_samples: int | None = None,
    scale_loud: bool = False,
) -> Float32[np.ndarray, " samples"]:
    """Decodes a sound file, mixes it to mono and resamples it.

    Averages the channels and resamples with soxr's "HQ" recipe, as
    `librosa.load(..., res_type="soxr_hq")` does. Joined MP3 files and chained Ogg files are read
    as one sound. What is unusual in the file causes a warning: a peak beyond 1.5, and a header
    that was never completed.

    Truncated files are rejected where the format permits: WAV, AIFF, AU and related formats
    state the length of their data, FLAC and MP3 the number of samples, and Ogg marks its last
    page. Truncation is undetectable in an MP3 without a Xing header, in a FLAC or WAV without a
    length in its header (written to a pipe), and up to 8 bytes in W64 and CAF: the remaining
    samples are returned.

    Args:
        path: a file in any format that libsndfile reads (WAV, FLAC, Ogg, MP3, …) or, where ffmpeg
            is installed, in MP4, WebM, WMA and others; with any number of channels and a sampling
            rate from 1 kHz to 1 MHz. Or its content, as bytes or as a file object opened in
            binary mode, which is read from its position to its end, up to 256 MB; as are pipes.
        sampling_rate: the sampling rate of the result, in Hz.
        max_samples: reads no more than the beginning of the file that gives so many samples.
        scale_loud: whether to divide a waveform that goes beyond 1 by its peak.

    Returns:
        The waveform, in [-1, 1] unless the file holds larger floats. `n` samples at `rate`
        become ⌈n · sampling_rate / rate⌉.

    Raises:
        InputError: the file is missing, empty, truncated or not audio, or has no samples, NaN or
            infinite ones, or more than 4.6 hours at 16 kHz.
    """
    recording = read_recording(path, sampling_rate, max_samples=max_samples, scale_loud=scale_loud)
    for note in filter(None, (recording.note, recording.level_note)):
        warnings.warn(note, stacklevel=2)
    return recording.waveform


class RecordingStream:
    """A sound file that is read in blocks; iterate over it once. See `open_recording`.

    Attributes:
        name: the name of the file, for messages.
        rate: the sampling rate of the file, in Hz.
        note: a sentence about the header, '' for none.
        file_peak: the largest absolute value in the blocks so far, in the file's channels.
    """

    def __init__(self, name: str, stream: Stream, sampling_rate: int):
        self.name, self.note = name, stream.note
        self.rate, self.file_peak = stream.rate, 0.0
        self._new_rate, self._blocks = sampling_rate, stream.blocks
        self._frames = stream.frames  # that the header states, later that there are
        self._count = 0  # samples per channel so far

    @property
    def seconds(self) -> float | None:
        """The length of the file, as its header states it until all is read; None if unknown."""
        # A file of unknown length may be longer than what was read.
        if self._frames is None or self._frames < self._count:
            return None
        return self._frames / self.rate

    @property
    def level_note(self) -> str:
        """A sentence about samples beyond 1.5 in the blocks so far, '' for none."""
        if self.file_peak <= LOUD:
            return ""
        return (
            f"{self.name} reaches {self.file_peak:.6g}, and samples are expected in [-1, 1]; set "
            f"scale_loud (--scale-loud) to divide it by that"
        )

    def __iter__(self) -> Iterator[Float32[np.ndarray, " samples"]]:
        """Yields the waveform in blocks, mono and resampled as the file is read."""
        resampler = Resampler(self.rate, self._new_rate)
        for block in self._blocks:
            self.file_peak = max(self.file_peak, check_peak(block, self.name))
            mono = mix_to_mono(block)
            self._count += len(mono)
            yield resampler.push(mono)
        if not self._count:
            raise InputError(f"{self.name} holds no samples: restore it or leave it out")
        self._frames = self._count
        yield resampler.finish()


@contextmanager
def open_recording(path: SoundFile, sampling_rate: int) -> Iterator[RecordingStream]:
    """Opens a sound file of any length, to read it in blocks of bounded size.

    The blocks joined are what `load_audio` returns, without its limit of 4.6 hours.

    Args:
        path: as for `load_audio`.
        sampling_rate: of the blocks, in Hz.

    Raises:
        InputError: as for `load_audio`; what is wrong within the file is raised when it is read.
    """
    new_rate = check_sampling_rate(sampling_rate)
    source = open_source(path)
    with closing(_streams(source)) as streams:
        yield RecordingStream(source.name, _join(streams, source.name), new_rate)


def read_recording(
    path: SoundFile,
    sampling_rate: int,
    *,
    max_samples: int | None = None,
    scale_loud: bool = False,
) -> Recording:
    """Returns the waveform of a sound file and what is known of it.

    Arguments and errors are those of `load_audio`; what `load_audio` warns of is returned.
    """
    samples = bytearray()
    enough = MAX_SAMPLES + 1 if max_samples is None else max_samples
    with open_recording(path, sampling_rate) as stream:
        for block in stream:
            samples += block.data
            if len(samples) >= 4 * enough:
                break
    samples[4 * enough :] = b""
    waveform = np.frombuffer(samples, np.float32)
    if len(waveform) > MAX_SAMPLES:
        raise InputError(
            f"{stream.name} has more than {MAX_SAMPLES} samples at {sampling_rate} Hz: cut it into "
            f"parts"
        )
    level_note = stream.level_note
    peak = peak_of(waveform)
    if scale_loud and peak > 1:
        waveform /= np.float32(peak)
        level_note = ""
    return Recording(waveform, stream.seconds, peak, stream.note, level_note)


def _streams(source: Source) -> Generator[Stream]:
    """Yields the streams of a file, through ffmpeg if libsndfile does not know the format."""
    try:
        yield from read_streams(source)
    except UnknownFormatError:
        with source.open() as file:
            format = format_of(file.read(64))
        if not format:
            raise
        yield from read_with_ffmpeg(source, format)


def _join(streams: Iterator[Stream], name: str) -> Stream:
    """Returns the streams of a file as one, of the length of the first.

    Raises:
        InputError: the sampling rate of the first, or, as the blocks are read, of another differs.
    """
    first = next(streams)
    low, high = SAMPLING_RATES
    if not low <= first.rate <= high:
        raise InputError(
            f"{name} has a sampling rate of {first.rate} Hz, which is not from {low} to {high}: "
            f"correct its header"
        )

    def blocks() -> Iterator[np.ndarray]:
        yield from first.blocks
        for stream in streams:
            if stream.rate != first.rate:
                raise InputError(
                    f"{name} has parts of {first.rate} and {stream.rate} Hz: split it, or convert "
                    f"it to WAV"
                )
            yield from stream.blocks

    return first._replace(blocks=blocks())


def resample(
    waveform: Float32[np.ndarray, " samples"], rate: int, new_rate: int
) -> Float32[np.ndarray, " resampled"]:
    """Resamples to ⌈samples · new_rate / rate⌉ samples, with soxr's "HQ" recipe.

    Raises:
        InputError: a sample is not finite, or beyond 1e15, where the filter overflows.
    """
    if rate == new_rate:
        return waveform
    check_peak(waveform)
    resampled = soxr.resample(waveform, rate, new_rate, quality="HQ")
    length = -(-len(waveform) * new_rate // rate)
    return np.pad(resampled[:length], (0, max(0, length - len(resampled))))
