"""Signals that ask a run to end, heard between two steps."""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

WORD = b"\nstopping after the step under way (or its compilation); again to stop at once\n"


class PreemptionHandler:
    """A context in which SIGINT and SIGTERM are noted instead of obeyed.

    A handler of Python's own raises KeyboardInterrupt wherever the program happens to be, and
    in some of those places (a callback of JAX's) it is lost. A second signal of a kind is
    obeyed at once. Outside the main thread nothing can be heard and nothing changes.

    Attributes:
        heard: whether this process was asked to end.
    """

    def __init__(self) -> None:
        self.heard = False
        self._before: dict[int, object] = {}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = True
        signal.signal(number, self._before[number])  # type: ignore[arg-type]
        if sys.stderr.isatty():  # not by print, in the middle of which the signal may have come
            os.write(sys.stderr.fileno(), WORD)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.getsignal(number)
                signal.signal(number, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
