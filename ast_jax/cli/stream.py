"""`ast-jax stream`: finds events in sound that arrives on standard input."""

import json as json_module
import math
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ast_jax.cli.arguments import Dtype, Positive
from ast_jax.cli.command import naming
from ast_jax.cli.event_options import EventOptions
from ast_jax.cli.load_classifier import load_classifier
from ast_jax.errors import InputError, print_note

if TYPE_CHECKING:
    from ast_jax.audio.pcm_stream import Block, PcmFormat
    from ast_jax.inference.events import Event
    from ast_jax.inference.streaming import StreamingClassifier
    from ast_jax.inference.windows import Window

NAME = "standard input"
READ = 2**16  # bytes at once, at most
AHEAD = 2**26  # bytes that are kept; with more the sender waits
BEHIND = 5.0  # seconds of delay that cause a note
NO_OPTIONS = EventOptions()


def stream(
    *,
    checkpoint: str,
    window: float | None = None,
    hop: float | None = None,
    events: Annotated[EventOptions, tyro.conf.arg(name="")] = NO_OPTIONS,
    format: Literal["wav", "s16", "f32"] = "wav",
    rate: Positive | None = None,
    channels: Positive | None = None,
    dtype: Dtype = None,
    output: str = "",
    json: bool = False,
) -> int:
    """Find events in sound on standard input, and print each when it has ended.

    Args:
        checkpoint: a checkpoint or run folder, a Hugging Face folder, a .safetensors or a .pth
        window: seconds of sound that are classified at once (the model's input)
        hop: seconds from the start of one window to the next (the window)
        events: of what is found
        format: a WAV, or raw little-endian samples of 16-bit integers or 32-bit floats
        rate: sampling rate of raw samples, in Hz
        channels: of raw samples (1)
        dtype: precision of the encoder; bfloat16 is faster on GPUs and TPUs (the checkpoint's)
        output: a new .csv, .jsonl, .txt (Audacity) or .rttm to write the events to
        json: print JSON Lines
    """
    raw = _raw_format(format, rate, channels)
    events.check()
    thresholds = events.read_thresholds()
    if output:
        from ast_jax.inference.event_files import check_event_file

        check_event_file(output)
        if json:
            raise InputError(f"--json prints what --output writes to {output}; leave one out")
    # What arrives while the model is loaded is kept, so that a recorder need not wait.
    chunks = read_stdin_ahead(_stdin())
    classifier = load_classifier(checkpoint, dtype)
    from ast_jax.inference.event_files import open_event_file
    from ast_jax.inference.streaming import StreamingClassifier

    tracker = events.tracker(classifier.labels, thresholds)
    streaming = StreamingClassifier(classifier, window, hop, thresholds=thresholds)
    print_note(
        f"a window of {streaming.window:g} s is classified every {streaming.hop:g} s; Ctrl-C ends"
    )
    format_found, blocks = _open(chunks, raw)
    target = open_event_file(output) if output else nullcontext(_print_json if json else _print)
    with naming(output or "standard output"), target as write:
        try:
            for scored in _windows(streaming, format_found, blocks):
                for event in tracker.update(scored):
                    write("-", event)
        except InputError as error:
            raise error if str(error).startswith(NAME) else InputError(f"{NAME}: {error}") from None
        finally:  # after Ctrl-C, too
            for event in tracker.finish():
                write("-", event)
    return 0


def _raw_format(format: str, rate: int | None, channels: int | None) -> "PcmFormat | None":
    """Returns the format of raw samples, None for a WAV."""
    from ast_jax.audio.pcm_stream import PcmFormat
    from ast_jax.audio.waveform import MAX_CHANNELS, check_sampling_rate

    if format == "wav":
        if rate or channels:
            raise InputError(
                "--rate and --channels are for raw samples, and the header of a WAV states both; "
                "leave them out, or add --format"
            )
        return None
    if rate is None:
        raise InputError("--rate is missing; give the sampling rate of the raw samples in Hz")
    if (channels or 1) > MAX_CHANNELS:
        raise InputError(f"--channels is {channels}; give up to {MAX_CHANNELS}")
    return PcmFormat(format, check_sampling_rate(rate), channels or 1)


def _stdin() -> int:
    """Returns the file descriptor of standard input."""
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError(
            f"{NAME} is a terminal or closed; pipe sound into it, as `arecord -f S16_LE -r 16000 | "
            f"ast-jax stream …` does"
        )
    return sys.stdin.fileno()


def read_stdin_ahead(descriptor: int) -> Iterator[bytes]:
    """Reads standard input in a thread from now on, up to `AHEAD` of the iterator that it returns.

    Raises:
        InputError: in the iterator, if it cannot be read.
    """
    arrived, changed = bytearray(), threading.Condition()
    end: list[OSError | None] = []  # of the input: an error or None, when it is reached

    # A number of its own: the thread may still read when the caller's is that of another file.
    own = os.dup(descriptor)

    def read() -> None:
        error = None
        try:
            while chunk := os.read(own, READ):
                with changed:
                    changed.wait_for(lambda: len(arrived) < AHEAD)
                    arrived.extend(chunk)
                    changed.notify_all()
        except OSError as found:
            error = found
        os.close(own)
        with changed:
            end.append(error)
            changed.notify_all()

    # Not joined: it may wait for the sender forever.
    threading.Thread(target=read, daemon=True).start()

    def iterate() -> Iterator[bytes]:
        while True:
            with changed:
                changed.wait_for(lambda: arrived or end)
                chunk = bytes(arrived[:READ])
                del arrived[:READ]
                changed.notify_all()
            if chunk:
                yield chunk
            elif end[0]:
                raise InputError(f"{NAME} cannot be read ({end[0].strerror}); pipe sound into it")
            else:
                return

    return iterate()


def _open(chunks: Iterator[bytes], raw: "PcmFormat | None") -> "tuple[PcmFormat, Iterator[Block]]":
    """Returns the format of the stream, and its samples as they arrive."""
    from ast_jax.audio.pcm_stream import ByteStream, read_raw, read_wav

    stream = ByteStream(chunks)
    if not stream.peek(1):
        raise InputError(f"{NAME} is empty; pipe sound into it")
    if raw:
        return raw, read_raw(stream, raw, NAME, print_note)
    return read_wav(stream, NAME, print_note)


def _windows(
    streaming: "StreamingClassifier", format: "PcmFormat", blocks: "Iterator[Block]"
) -> "Iterator[Window]":
    """Yields the windows of a stream as they are complete; before an error, those that precede it.

    Prints a note about the first samples beyond 1.5, and one if the device is too slow.
    """
    from ast_jax.audio.decode import LOUD
    from ast_jax.audio.pcm import peak_of

    is_loud, pace = False, Pace()
    try:
        for block in blocks:
            if not is_loud and LOUD < (peak := peak_of(block)) < math.inf:
                is_loud = True
                print_note(
                    f"{NAME} reaches {peak:.6g}, and samples are expected in [-1, 1]; lower its "
                    f"level, or correct --format"
                )
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of what the note is about
                windows = streaming.push(block, format.rate)
            pace.add(time.perf_counter() - start, len(block) / format.rate)
            yield from windows
    except InputError:
        with suppress(InputError):  # nothing precedes it
            yield from streaming.finish()
        raise
    yield from streaming.finish()


class Pace:
    """Prints a note once when a live stream would be `BEHIND` because computing takes too long.

    Attributes:
        behind: the delay of a live stream by now, in seconds.
    """

    def __init__(self) -> None:
        self.behind = 0.0
        self._is_told = False

    def add(self, busy: float, seconds: float) -> None:
        """Adds the seconds that it took to compute, and those of the sound."""
        self.behind = max(0.0, self.behind + busy - seconds)
        if self.behind > BEHIND and not self._is_told:
            self._is_told = True
            print_note(
                f"computing takes longer than the sound lasts, and a live stream is "
                f"{self.behind:.0f} s behind by now; nothing is left out, and a longer --hop takes "
                f"less time"
            )


def _print(recording: str, event: "Event") -> None:
    from ast_jax.cli.window_formats import EVENTS

    print(EVENTS.to_text(event), flush=True)


def _print_json(recording: str, event: "Event") -> None:
    from ast_jax.inference.event_files import event_fields

    # In ASCII, as escapes of what the encoding of stdout lacks would be no JSON.
    print(json_module.dumps(event_fields(recording, event)), flush=True)
