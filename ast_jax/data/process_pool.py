"""Runs tasks in a pool of processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from ast_jax.errors import InputError


@contextmanager
def block_signals() -> Iterator[None]:
    """Blocks SIGINT and SIGTERM in the processes that are started within.

    A terminal or a cluster sends them to every process, but only the parent must act on them.
    """
    # Blocked, not ignored: a signal that arrives meanwhile still reaches this process afterwards.
    resource_tracker.ensure_running()  # starting it unblocks the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def start_pool(
    processes: int, work: Callable[[Any, Any], Any], shared: Any, died: str
) -> Iterator[Callable[[Any], Future]]:
    """Starts processes and gives a function that submits one task, as `work(shared, task)`.

    `work` and `shared` are sent to each process once. On exit, tasks that have not started are
    canceled; after an error, including Ctrl-C, running tasks are abandoned as well.

    Raises:
        InputError: a process was killed; `died` is the message.
    """
    # Spawned: a fork of a process with TensorFlow's threads may hang.
    context = multiprocessing.get_context("spawn")
    child_end, parent_end = context.Pipe(duplex=False)
    with child_end, parent_end:
        initargs = partial(work, shared), child_end
        pool = ProcessPoolExecutor(processes, context, _initialize, initargs)

        def submit(task: Any) -> Future:
            with block_signals():
                return pool.submit(_run, task)

        try:
            yield submit
        except BaseException as error:
            parent_end.close()  # ends the processes; Python 3.12 waits for them even if one died
            if isinstance(error, BrokenProcessPool):
                raise InputError(died) from None
            raise
        finally:
            pool.shutdown(cancel_futures=True)


_work: Callable[[Any], Any]  # in a process of a pool


def _initialize(work: Callable[[Any], Any], lifeline: Connection) -> None:
    global _work
    _work = work

    def exit_with_parent() -> None:
        with suppress(EOFError, OSError):
            lifeline.recv()  # raises EOFError once the parent closes the other end, or dies
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


def _run(task: Any) -> Any:
    return _work(task)
