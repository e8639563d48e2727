"""Processes that work for this one."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from ast_jax.errors import InputError


@contextmanager
def block_signals() -> Iterator[None]:
    """Processes started within never hear Ctrl-C and SIGTERM.

    A terminal or a cluster sends them to all, and they are for the one that waits for the others.
    """
    # Blocked, not ignored: one that comes meanwhile still reaches this process, at the end or by
    # another thread.
    resource_tracker.ensure_running()  # or it is started within, which ends the blocking
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def process_pool(
    processes: int, work: Callable[[Any, Any], Any], shared: Any, died: str
) -> Iterator[Callable[[Any], Future]]:
    """Gives a function that has a process call `work(shared, task)` for the task it is given.

    `shared` is sent to each process once. Tasks that none has begun at the end are dropped; after
    an error, Ctrl-C among them, those under way are too.

    Raises:
        InputError: a process was killed; `died` is the message.
    """
    # Spawned: a fork of a process with TensorFlow's threads may hang.
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(processes, context, _start, (shared, theirs))

    def submit(task: Any) -> Future:
        with block_signals():
            return pool.submit(_call, work, task)

    try:
        yield submit
    except BaseException as error:
        ours.close()  # ends the processes, which Python 3.12 waits for even if one of them died
        if isinstance(error, BrokenProcessPool):
            raise InputError(died) from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        ours.close()
        theirs.close()


_shared: Any  # in a pool's process


def _start(shared: Any, lifeline: Connection) -> None:
    global _shared
    _shared = shared

    def wait() -> None:
        # Its other end is closed, by the process that this one works for or as that was killed.
        with suppress(EOFError, OSError):
            lifeline.recv()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _call(work: Callable[[Any, Any], Any], task: Any) -> Any:
    return work(_shared, task)
