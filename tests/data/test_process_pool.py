import os
import signal
import time

import pytest

from ast_jax.data.process_pool import block_signals, start_pool
from ast_jax.errors import InputError


def sleep(folder, name):
    (folder / f"{name} started").touch()
    time.sleep(60)
    (folder / f"{name} done").touch()


def add(shared, task):
    return shared + task


def test_a_pool_yields_the_tasks_results():
    with start_pool(2, add, 40, "died") as submit:
        assert [future.result() for future in [submit(1), submit(2)]] == [41, 42]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("a damaged file")])
def test_an_error_does_not_wait_for_running_tasks(tmp_path, error):
    def fail():
        with start_pool(1, sleep, tmp_path, "died") as submit:
            submit("first")
            submit("second")
            while not (tmp_path / "first started").exists():
                time.sleep(0.01)
            raise error

    with pytest.raises(type(error)):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["first started"]


def die_or_sleep(folder, name):
    if name == "dies":
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    sleep(folder, name)


def test_a_dying_process_does_not_wait_for_the_others(tmp_path):
    def work():
        with start_pool(2, die_or_sleep, tmp_path, "a process died") as submit:
            for future in [submit("dies"), submit("sleeps"), submit("dies")]:
                future.result()

    with pytest.raises(InputError, match="a process died"):
        work()
    assert not (tmp_path / "sleeps done").exists()


def blocked(shared, task):
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_signal_during_the_start_reaches_only_the_parent():
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with block_signals():
            os.kill(os.getpid(), signal.SIGTERM)
        with start_pool(1, blocked, None, "died") as submit:
            assert {signal.SIGINT, signal.SIGTERM} <= submit(None).result()
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not {signal.SIGINT, signal.SIGTERM} & signal.pthread_sigmask(signal.SIG_BLOCK, ())
