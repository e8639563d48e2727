"""Signals that ask a run to end, heard between two steps."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

import jax
from jax.experimental import multihost_utils


class Interruption:
    """A context in which SIGINT and SIGTERM are noted instead of obeyed.

    A handler of Python's own raises KeyboardInterrupt wherever the program happens to be, and
    in some of those places (a callback of JAX's) it is lost. A second signal of a kind is
    obeyed at once. Outside the main thread nothing can be heard and nothing changes.

    Where `jax.distributed` runs, all processes must stop at the same step: its service hears
    SIGTERM, and agrees on the step.
    """

    def __init__(self) -> None:
        self.heard = False
        self.distributed = jax.distributed.is_initialized()
        self._before: dict[int, object] = {}

    def reached(self, step: int) -> bool:
        """Whether the run must end after this many steps."""
        if self.distributed:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.heard

    def heard_alone(self) -> bool:
        """Whether the run must end, where it may at once: no other process waits for it."""
        return self.heard and not self.distributed

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = True
        signal.signal(number, self._before[number])  # type: ignore[arg-type]
        if self.distributed:
            os.kill(os.getpid(), signal.SIGTERM)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in [signal.SIGINT] if self.distributed else [signal.SIGINT, signal.SIGTERM]:
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
