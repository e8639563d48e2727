"""Batches made by processes of their own, handed over in shared memory."""

import contextlib
import multiprocessing
import shutil
import traceback
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.data.batches import Batch
from ast_jax.data.children import deaf_to_signals
from ast_jax.errors import InputError

SHARED_MEMORY = Path("/dev/shm")  # where Linux keeps it
AHEAD = 3  # batches that a worker has room for, the one it is filling among them

MakeBatch = Callable[..., Batch]  # (number) → a batch, or (number, batch) → the batch, filled
Layout = list[tuple[str, tuple[int, ...], str, int]]  # name, shape, dtype and offset of arrays


def from_workers(
    make_batch: MakeBatch, numbers: range, workers: int
) -> Generator[Batch, None, None]:
    """The batches of `numbers` in order; worker w of W makes every W-th.

    Args:
        make_batch: from a batch's number to the batch; with a batch as second argument it
            writes into its arrays. It is pickled to each worker. All batches have the arrays of
            the first, in their shapes.
        numbers: those wanted.
        workers: how many processes.

    Raises:
        InputError: a worker raised one, or died, or there is too little shared memory.
    """
    if not numbers:
        return
    workers = min(workers, len(numbers) - 1)
    # Made here while the workers start: it tells them how much memory a batch takes.
    context = multiprocessing.get_context("spawn")
    pool: list[_Worker] = []
    try:
        for w in range(workers):
            pool.append(_Worker(context, make_batch, numbers[1 + w :: workers]))
        first = make_batch(numbers[0])
        _check_room(workers * AHEAD * _layout(first)[1])
        for worker in pool:
            worker.share(first)
        yield first
        for i, _ in enumerate(numbers[1:]):
            yield pool[i % workers].take()
    finally:
        for worker in pool:
            worker.close()


class _Worker:
    """One process and the memory shared with it."""

    def __init__(self, context: Any, make_batch: MakeBatch, numbers: range):
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(theirs, make_batch, numbers), daemon=True
        )
        with deaf_to_signals():
            self.process.start()
        theirs.close()  # so that a worker's death is seen as the end of the pipe
        self.memory: list[SharedMemory] = []

    def share(self, first: Batch) -> None:
        """Tells the worker where batches like `first` go."""
        self.layout, size = _layout(first)
        for _ in range(AHEAD):  # one by one, so that `close` frees those that were made
            self.memory.append(SharedMemory(create=True, size=max(size, 1)))
        self._send((self.layout, [memory.name for memory in self.memory]))

    def take(self) -> Batch:
        """The worker's next batch, copied."""
        wait([self.pipe, self.process.sentinel])
        try:
            slot, error = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            raise InputError(
                f"a process that makes batches died (exit code {self.process.exitcode}), perhaps "
                f"for want of memory; lower data.workers or batch_size"
            ) from None
        if isinstance(error, InputError):
            raise error
        if error is not None:
            raise RuntimeError(f"a process that makes batches failed:\n{error}")
        batch = {name: array.copy() for name, array in _views(self.memory[slot], self.layout)}
        self._send(slot)
        return batch

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # it has ended; if batches are missing, `take` tells
            self.pipe.send(message)

    def close(self) -> None:
        """Ends the process and frees the memory."""
        self.pipe.close()
        self.process.kill()
        self.process.join()
        for memory in self.memory:
            memory.close()
            memory.unlink()


def _check_room(size: int) -> None:
    """Raises InputError if so many bytes of shared memory are not free, where that can be told.

    It is taken when it is written to, and a process that finds none left dies (SIGBUS).
    """
    if not SHARED_MEMORY.is_dir():
        return
    usage = shutil.disk_usage(SHARED_MEMORY)
    if usage.total and usage.free < size:  # a total of 0 is no limit
        raise InputError(
            f"{SHARED_MEMORY}: has {usage.free >> 20} MiB free and the batches made ahead take "
            f"{size >> 20}; lower data.workers or batch_size, or give it more (--shm-size of "
            f"docker run)"
        )


def _work(pipe: Connection, make_batch: MakeBatch, numbers: range) -> None:
    """A worker's life: batch after batch, each into memory that the other side gave free."""
    try:
        layout, names = pipe.recv()
        memory = [SharedMemory(name=name) for name in names]
        free = list(range(len(memory)))
        for number in numbers:
            slot = free.pop() if free else pipe.recv()
            try:
                make_batch(number, dict(_views(memory[slot], layout)))
            except InputError as error:
                return pipe.send((-1, error))
            except Exception:
                return pipe.send((-1, traceback.format_exc()))
            pipe.send((slot, None))
        while True:  # until it is ended: a pipe that closes early looks like a death
            pipe.recv()
    except (EOFError, OSError):
        return None  # the process that trains has ended


def _layout(batch: Batch) -> tuple[Layout, int]:
    layout, offset = [], 0
    for name, array in batch.items():
        layout.append((name, array.shape, array.dtype.str, offset))
        offset += -(-array.nbytes // 64) * 64
    return layout, offset


def _views(memory: SharedMemory, layout: Layout) -> Iterator[tuple[str, np.ndarray]]:
    for name, shape, dtype, offset in layout:
        yield name, np.ndarray(shape, dtype, memory.buf, offset)
