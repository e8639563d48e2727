import socket
import threading

import pytest

from ast_jax.training.coordinator import Connection, Coordinator, listen


@pytest.fixture
def pod(monkeypatch):
    """Returns a function that runs a coordinator in a thread, and returns its port."""
    monkeypatch.setattr("ast_jax.training.coordinator.INTERRUPT_SECONDS", 0.2)
    monkeypatch.setattr("ast_jax.training.coordinator.END_SECONDS", 0.2)
    threads = []

    def run(listener, count, seconds):
        coordinator = Coordinator(listener, count)
        if coordinator.connect(seconds):
            coordinator.watch()
        for key in list(coordinator.selector.get_map().values()):
            key.fileobj.close()
        coordinator.selector.close()

    def start(count=2, seconds=5.0):
        listener = listen(0)
        threads.append(threading.Thread(target=run, args=(listener, count, seconds)))
        threads[-1].start()
        return listener.getsockname()[1]

    yield start
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def join():
    """Returns a function that connects as a process."""
    opened = []

    def join(port, process, of=2):
        opened.append(Connection(socket.create_connection(("localhost", port), timeout=5)))
        opened[-1].send(process=process, of=of, host=f"host{process}")
        return opened[-1]

    yield join
    for connection in opened:
        connection.socket.close()


@pytest.fixture
def started(pod, join):
    """Returns two processes of a pod that has started."""
    port = pod()
    both = [join(port, 1), join(port, 0)]
    assert [each.receive() for each in both] == [{"start": True}] * 2
    return both[::-1]


def failure(connection):
    return connection.receive()["failure"]


def test_a_missing_process_is_named(pod, join):
    port = pod(count=4, seconds=0.5)
    present = [join(port, 2, of=4), join(port, 0, of=4)]
    for each in present:
        assert failure(each).startswith("processes 1, 3 of 4 did not start within 0.5 s")


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"{}\n", b"x" * 100000])
def test_others_that_connect_are_ignored(pod, join, line):
    port = pod()
    with socket.create_connection(("localhost", port)) as stranger:
        stranger.sendall(line)
        both = [join(port, 0), join(port, 1)]
        assert [each.receive() for each in both] == [{"start": True}] * 2
        for each in both:
            each.send(status=0, message="")
            each.socket.close()


def test_two_processes_with_one_index_fail(pod, join):
    port = pod(count=3)
    both = [join(port, 1, of=3), join(port, 1, of=3)]
    for each in both:
        assert "have the same --process-id" in failure(each)


def test_another_number_of_processes_fails(pod, join):
    port = pod()
    first, second = join(port, 0), join(port, 1, of=3)
    expected = "process 1 (host1) was started as one of 3 and the first as one of 2"
    assert failure(second).startswith(expected)
    assert failure(first).startswith(expected)


def test_a_stranger_cannot_report_a_status(pod, join):
    port = pod()
    with socket.create_connection(("localhost", port)) as stranger:
        both = [join(port, 0)]
        stranger.sendall(b'{"other": 1}\n')
        both.append(join(port, 1))
        assert [each.receive() for each in both] == [{"start": True}] * 2
        stranger.sendall(b'{"status": 1, "message": "no"}\n')
        for each in both:
            each.socket.settimeout(0.2)
            assert each.receive() is None
            each.send(status=0)
            each.socket.close()


def test_messages_are_read_one_by_one_from_parts():
    one, other = socket.socketpair()
    with one, other:
        connection = Connection(one)
        other.sendall(b'{"start": true}\n{"failure": "x"}\n{"fail')
        assert connection.receive() == {"start": True}
        assert connection.receive() == {"failure": "x"}
        other.sendall(b'ure": "y"}\n')
        assert connection.receive() == {"failure": "y"}
        other.sendall(b"[]\n")
        assert connection.receive() is None


def test_the_message_of_a_failed_process_reaches_the_others(started):
    first, second = started
    second.send(status=1, message="x.wav: damaged")
    assert failure(first) == "process 1 (host1) failed: x.wav: damaged"


def test_a_process_that_disappears_is_named(started):
    first, second = started
    first.socket.close()
    assert failure(second).startswith("process 0 (host0) has disappeared")


@pytest.mark.parametrize("status", [0, 130])
def test_processes_that_end_together_are_no_failure(started, status):
    for each in started:
        each.send(status=status, message="")
    first, second = started
    first.socket.close()
    second.socket.settimeout(0.1)
    assert second.receive() is None


def test_a_process_that_is_interrupted_alone_is_named_after_a_while(started):
    first, second = started
    second.send(status=130, message="")
    second.socket.close()
    assert failure(first) == "process 1 (host1) was interrupted alone"
