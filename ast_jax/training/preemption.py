"""Handles the signals that ask a run to stop."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Self

MESSAGE = b"\nstopping after the current step (or its compilation); again to stop at once\n"


class PreemptionHandler:
    """Context in which SIGINT and SIGTERM set a flag that the loop reads between steps.

    Python's own handler raises KeyboardInterrupt anywhere, and in some places, such as a callback
    of JAX's, the exception is lost. A second signal of the same kind acts at once. Outside the
    main thread signals are left as they are.

    Attributes:
        requested: whether this process was asked to stop.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._previous[number])  # type: ignore[arg-type]
        if sys.stderr.isatty():  # print is not reentrant
            os.write(sys.stderr.fileno(), MESSAGE)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.getsignal(number)
                signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
