"""Processes that work for this one."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes started within ignore Ctrl-C, from their first moment on.

    A terminal sends it to all of them, and it is for the one that waits for the others.
    """
    if threading.current_thread() is not threading.main_thread():  # may not set handlers
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_with_parent() -> None:
    """Called in a pool's process, lets it end when the one it works for was killed.

    Nothing else tells it.
    """

    def wait() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
