"""Batches made by processes of their own, handed over in shared memory."""

import atexit
import contextlib
import multiprocessing
import shutil
import traceback
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import Any

import numpy as np

from ast_jax.data.batches import Batch
from ast_jax.data.process_pool import block_signals
from ast_jax.errors import InputError

SHARED_MEMORY = Path("/dev/shm")  # where Linux keeps it
AHEAD = 3  # batches that a worker has room for, the one it is filling among them
FAILED = 1  # a place's first byte, where the batch could not be made

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
    """One process and the memory shared with it.

    Semaphores count the batches that are made and the places that are free. To take a batch that is
    made never lets go of the interpreter, as to read a pipe does: a thread that is busy in Python
    would keep it for 5 ms each time.
    """

    def __init__(self, context: Any, make_batch: MakeBatch, numbers: range):
        self.pipe, theirs = context.Pipe()
        self.made, self.free = context.Semaphore(0), context.Semaphore(AHEAD)
        self.process = context.Process(
            target=_work, args=(theirs, self.made, self.free, make_batch, numbers), daemon=True
        )
        with block_signals():
            self.process.start()
        theirs.close()  # so that a worker's death is seen as the end of the pipe
        self.memory: list[SharedMemory] = []
        self.taken = 0
        # Python would ask it to end by a signal that it never hears, and wait, where a program
        # ends with its batches still to come.
        atexit.register(self.close)

    def share(self, first: Batch) -> None:
        """Tells the worker where batches like `first` go."""
        self.layout, size = _layout(first)
        for _ in range(AHEAD):  # one by one, so that `close` frees those that were made
            self.memory.append(SharedMemory(create=True, size=size))
        with contextlib.suppress(OSError):  # it has ended, which `take` tells
            self.pipe.send((self.layout, [memory.name for memory in self.memory]))

    def take(self) -> Batch:
        """The worker's next batch, copied."""
        while not self.made.acquire(timeout=1):  # so long a death may go unseen
            if self.process.is_alive():
                continue
            if self.made.acquire(block=False):  # it was made before the process ended
                break
            raise self._death()
        place = self.memory[self.taken % AHEAD]
        buffer: Any = place.buf
        if buffer[0] == FAILED:
            try:
                error = self.pipe.recv()
            except (EOFError, OSError):
                raise self._death() from None
            if isinstance(error, InputError):
                raise error
            raise RuntimeError(f"a process that makes batches failed:\n{error}")
        # Not copied by NumPy, which would let another thread have the interpreter meanwhile.
        batch = {
            name: np.frombuffer(bytearray(array), array.dtype).reshape(array.shape)
            for name, array in _views(place, self.layout)
        }
        self.taken += 1
        self.free.release()
        return batch

    def _death(self) -> InputError:
        self.process.join(5)
        return InputError(
            f"a process that makes batches died (exit code {self.process.exitcode}), perhaps for "
            f"want of memory; lower data.workers or batch_size"
        )

    def close(self) -> None:
        """Ends the process and frees the memory; a second time what the first had not come to."""
        self.pipe.close()
        self.process.kill()
        self.process.join()
        for name in ("made", "free"):  # at once, also where an error's traceback still holds this
            vars(self).pop(name, None)
        while self.memory:
            memory = self.memory.pop()
            memory.close()
            memory.unlink()
        atexit.unregister(self.close)


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


def _work(
    pipe: Connection, made: Semaphore, free: Semaphore, make_batch: MakeBatch, numbers: range
) -> None:
    """A worker's life: batch after batch, each into memory that the other side gave free."""
    try:
        layout, names = pipe.recv()
        memory = [SharedMemory(name=name) for name in names]
        for i, number in enumerate(numbers):
            while not free.acquire(timeout=1):
                if pipe.poll():  # nothing is sent any more: it is the end
                    return
            place = memory[i % len(memory)]
            try:
                make_batch(number, dict(_views(place, layout)))
            except Exception as error:
                buffer: Any = place.buf
                buffer[0] = FAILED
                made.release()
                pipe.send(error if isinstance(error, InputError) else traceback.format_exc())
                break
            made.release()
        while True:  # until it is ended: a pipe that closes early looks like a death
            pipe.recv()
    except (EOFError, OSError):
        return  # the process that trains has ended


def _layout(batch: Batch) -> tuple[Layout, int]:
    """Where the arrays of a batch lie, behind a byte that tells whether it failed; the size."""
    layout, offset = [], 64
    for name, array in batch.items():
        layout.append((name, array.shape, array.dtype.str, offset))
        offset += -(-array.nbytes // 64) * 64
    return layout, offset


def _views(memory: SharedMemory, layout: Layout) -> Iterator[tuple[str, np.ndarray]]:
    for name, shape, dtype, offset in layout:
        yield name, np.ndarray(shape, dtype, memory.buf, offset)
