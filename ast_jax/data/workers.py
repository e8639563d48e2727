"""Makes batches in worker processes and passes them through shared memory."""

import atexit
import multiprocessing
import shutil
import traceback
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.synchronize import Semaphore
from pathlib import Path

import numpy as np

from ast_jax.data.batches import Batch
from ast_jax.data.process_pool import block_signals
from ast_jax.errors import InputError

SHARED_MEMORY = Path("/dev/shm")  # where Linux mounts it
AHEAD = 3  # batches of room for each worker, including the one that it is filling

MakeBatch = Callable[..., Batch]  # (number) → a new batch, or (number, batch) → fills that batch


def make_in_processes(
    make_batch: MakeBatch, numbers: range, workers: int
) -> Generator[Batch, None, None]:
    """Yields the batches of `numbers` in order; worker w of W makes every W-th of the rest.

    The first batch is made in this process: it shows how much shared memory a batch takes.

    Args:
        make_batch: a function of a batch's number; given a batch as second argument, it writes
            into its arrays. It is pickled to each worker. Every batch must have the first one's
            names, shapes and dtypes.
        numbers: the batches to make.
        workers: the number of processes.

    Raises:
        InputError: a worker raised one or died, or there is too little shared memory.
        RuntimeError: a worker raised anything else; the message holds its traceback.
    """
    if not numbers:
        return
    first, rest = make_batch(numbers[0]), numbers[1:]
    workers = min(workers, len(rest))
    with ExitStack() as stack:
        # A program may exit without closing this generator. Python then sends SIGTERM to daemon
        # processes and waits for them. Workers block SIGTERM, so this handler, which kills them,
        # runs first.
        atexit.register(stack.close)
        stack.callback(atexit.unregister, stack.close)
        _check_room(workers * AHEAD * sum(array.nbytes for array in first.values()))
        pool = []
        for w in range(workers):
            batches = stack.enter_context(closing(_SharedBatches(first)))
            worker = _Worker(make_batch, rest[w::workers], batches)
            pool.append(stack.enter_context(closing(worker)))
        yield first
        for i, _ in enumerate(rest):
            yield pool[i % workers].take()


class _SharedBatches:
    """AHEAD batches like `first` in shared memory; a pickled copy uses the same memory."""

    def __init__(self, first: Batch):
        self.arrays, size = {}, 0
        for name, array in first.items():
            self.arrays[name] = (AHEAD, *array.shape), array.dtype, size
            size += -(-AHEAD * array.nbytes // 64) * 64  # aligned
        self.memory = SharedMemory(create=True, size=max(size, 1))  # 0 is refused
        self.named = True

    def view(self, count: int) -> Batch:
        """Returns the arrays of batch `count`, modulo AHEAD; do not use them after `close`."""
        return {
            name: np.ndarray(shape, dtype, self.memory.buf, offset)[count % AHEAD]
            for name, (shape, dtype, offset) in self.arrays.items()
        }

    def unlink(self) -> None:
        """Removes the name of the memory, which then lasts as long as processes use it."""
        if self.named:
            self.named = False
            self.memory.unlink()

    def close(self) -> None:
        self.memory.close()
        self.unlink()


class _Worker:
    """A process that fills shared batches.

    Semaphores count the batches that are ready and those that may be overwritten. Acquiring one
    that is available does not release the GIL. Reading a pipe does, and a thread that is busy in
    Python then holds it for 5 ms each time.
    """

    def __init__(self, make_batch: MakeBatch, numbers: range, batches: _SharedBatches):
        context = multiprocessing.get_context("spawn")  # a fork of JAX's threads may hang
        self.batches, self.num_taken = batches, 0
        self.ready, self.free = context.Semaphore(0), context.Semaphore(AHEAD)
        self.errors, errors = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_work,
            args=(make_batch, numbers, batches, self.ready, self.free, errors),
            daemon=True,
        )
        with block_signals():
            self.process.start()
        errors.close()  # the worker then holds the only copy, and its death closes the pipe

    def take(self) -> Batch:
        """Returns a copy of the worker's next batch."""
        while not self.ready.acquire(timeout=1):
            if self.errors.poll():  # also true once the worker has ended
                if self.ready.acquire(block=False):  # it made the batch before that
                    break
                raise self._error()
        # The worker has opened the memory. If all processes are killed at once, nothing stays.
        self.batches.unlink()
        # NumPy would release the GIL while it copies.
        batch = {
            name: np.frombuffer(bytearray(array), array.dtype).reshape(array.shape)
            for name, array in self.batches.view(self.num_taken).items()
        }
        self.num_taken += 1
        self.free.release()
        return batch

    def _error(self) -> Exception:
        try:
            error = self.errors.recv()
        except (EOFError, OSError):
            self.process.join(5)
            return InputError(
                f"a process that makes batches died (exit code {self.process.exitcode}), perhaps "
                f"for want of memory; lower data.workers or batch_size"
            )
        if isinstance(error, InputError):
            return error
        return RuntimeError(f"a process that makes batches failed:\n{error}")

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.errors.close()
        del self.ready, self.free  # an error's traceback may keep `self`


def _work(
    make_batch: MakeBatch,
    numbers: range,
    batches: _SharedBatches,
    ready: Semaphore,
    free: Semaphore,
    errors: Connection,
) -> None:
    """Makes batches in a worker process, until the last one or the parent's end."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    for i, number in enumerate(numbers):
        while not free.acquire(timeout=1):
            if not parent.is_alive():
                return
        try:
            make_batch(number, batches.view(i))
        except Exception as error:
            errors.send(error if isinstance(error, InputError) else traceback.format_exc())
            return
        ready.release()


def _check_room(size: int) -> None:
    """Raises InputError if `size` bytes of shared memory are known not to be free.

    Linux allocates it on the first write and ends a process that finds none left (SIGBUS).
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
