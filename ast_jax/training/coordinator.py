"""Watches the processes of a pod from a process of its own, which the first of them starts.

It waits until all have connected, hosts JAX's coordination service, and tells the others when one
fails or disappears. Hosted by the first process, as `jax.distributed.initialize` does, the service
would end with it, and all others would abort with a stack dump.

The processes and the coordinator exchange lines of JSON over TCP. A process begins with its
`process` (index), `of` (number of processes) and `host`, and ends with its exit `status` and a
`message`. The coordinator answers with `start`, and later perhaps with a `failure`.
"""

import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

INTERRUPTED = 130
# The processes of a pod agree to stop on SIGTERM or Ctrl-C. One that stops alone ends the others
# after this time.
INTERRUPT_SECONDS = 60.0
END_SECONDS = 60.0  # after a failure, for all processes to end; then JAX's service ends
MAX_LINE = 65536  # bytes


@dataclass(eq=False)
class Connection:
    """One end of a TCP connection that carries lines of JSON."""

    socket: socket.socket
    process: int | None = None
    host: str = ""
    status: int | None = None
    unread: bytes = b""

    def send(self, **message: Any) -> None:
        """Sends a message; a broken connection is left to `receive`."""
        with suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """Returns the messages that have arrived; None at the end of the connection.

        Blocks if nothing has arrived. What is no message of the protocol ends the connection.
        """
        try:
            received = self.socket.recv(MAX_LINE)
            *lines, self.unread = (self.unread + received).split(b"\n")
            messages = [json.loads(line) for line in lines]
        except (OSError, ValueError, RecursionError):
            return None
        if not received or len(self.unread) > MAX_LINE:
            return None
        return messages if all(isinstance(message, dict) for message in messages) else None

    @property
    def name(self) -> str:
        """The process as messages name it."""
        return f"process {self.process} ({self.host})"


class Coordinator:
    """Connects the processes of a pod and watches them.

    Args:
        listener: the listening socket.
        count: number of processes.
    """

    def __init__(self, listener: socket.socket, count: int):
        self.listener, self.count = listener, count
        self.members: dict[int, Connection] = {}
        self.failed = False
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ)

    def connect(self, seconds: float) -> bool:
        """Waits until every process has connected; returns whether all did in time."""
        deadline = time.monotonic() + seconds
        while len(self.members) < self.count and not self.failed:
            left = deadline - time.monotonic()
            if left <= 0:
                self.fail(self._missing(seconds))
            for connection, message in self.events(left):
                if message is None:
                    self.forget(connection)
                elif connection.process is None:
                    self.register(connection, message)
        self.selector.unregister(self.listener)
        self.listener.close()
        return not self.failed

    def events(self, seconds: float) -> Iterator[tuple[Connection, dict[str, Any] | None]]:
        """Waits up to `seconds`; yields what has arrived, None at the end of a connection."""
        for key, _ in self.selector.select(max(seconds, 0)):
            if key.data is None:
                accepted, _ = self.listener.accept()
                keep_alive(accepted)
                accepted.settimeout(10)  # for sends to a process that does not read
                self.selector.register(accepted, selectors.EVENT_READ, Connection(accepted))
                continue
            messages = key.data.receive()
            if messages is None:
                self.selector.unregister(key.fileobj)
                key.data.socket.close()
            yield from ((key.data, each) for each in ([None] if messages is None else messages))

    def register(self, connection: Connection, message: dict[str, Any]) -> None:
        """Adds a process to the members; a wrong number of processes or a second index fails."""
        process, of = message.get("process"), message.get("of")
        if not isinstance(process, int) or not isinstance(of, int):
            return
        connection.process, connection.host = process, str(message.get("host"))
        if of != self.count or not 0 <= process < self.count:
            failure = f"{connection.name} was started as one of {of} and the first as one of"
            failure = f"{failure} {self.count}; give all the same --num_processes"
        elif process in self.members:
            failure = (
                f"{self.members[process].name} and another on {connection.host} have the same "
                f"--process_id; give each its own, 0 to {self.count - 1}"
            )
        else:
            self.members[process] = connection
            return
        connection.send(failure=failure)
        self.fail(failure)

    def watch(self) -> None:
        """Returns when all processes have ended; tells the others if one fails."""
        self.tell(start=True)
        until: float | None = None  # when a failure ends the watch, or an interrupt is a failure
        interrupted: Connection | None = None
        while any(self.is_connected(member) for member in self.members.values()):
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                if self.failed:
                    return
                assert interrupted is not None
                self.fail(f"{interrupted.name} was interrupted alone")
                until = time.monotonic() + END_SECONDS
            for connection, message in self.events(3600 if left is None else left):
                if message is None:
                    self.forget(connection)
                elif isinstance(message.get("status"), int):
                    connection.status = message["status"]
                    if connection.status == INTERRUPTED:
                        interrupted = interrupted or connection
                        until = until or time.monotonic() + INTERRUPT_SECONDS
                    elif connection.status:
                        self.fail(f"{connection.name} failed: {message.get('message')}")
                if self.failed and not interrupted:
                    until = until or time.monotonic() + END_SECONDS

    def forget(self, connection: Connection) -> None:
        """Handles the end of a connection, a failure unless the process has reported its end."""
        if connection.process is not None and connection.status is None:
            self.fail(
                f"{connection.name} has disappeared: it was killed, is out of memory, or its "
                f"machine cannot be reached"
            )

    def fail(self, failure: str) -> None:
        """Tells all processes of the first failure."""
        if not self.failed:
            self.failed = True
            self.tell(failure=failure)

    def tell(self, **message: Any) -> None:
        """Sends a message to all members."""
        for member in self.members.values():
            member.send(**message)

    def close(self) -> None:
        """Closes the connections that are open."""
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self.selector.close()

    def is_connected(self, member: Connection) -> bool:
        """Returns whether a member's connection is open."""
        return member.socket.fileno() >= 0

    def _missing(self, seconds: float) -> str:
        missing = [str(i) for i in range(self.count) if i not in self.members]
        few = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" * (len(missing) > 10))
        return (
            f"process{'es' * (len(missing) > 1)} {few} of {self.count} did not start within "
            f"{seconds:g} s; check their logs, or give more time by --start_timeout"
        )


def keep_alive(connection: socket.socket) -> None:
    """Ends a connection whose other machine has not answered for about 30 s."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # of Linux
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def listen(port: int) -> socket.socket:
    """Returns a socket that listens on all of this machine's addresses.

    Raises:
        OSError: the port is in use.
    """
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def host_service(port: int, count: int) -> Callable[[], None]:
    """Starts JAX's coordination service on a port; returns the function that stops it."""
    from jax._src.lib import _jax  # no public name

    service = _jax.get_distributed_runtime_service(f"[::]:{port}", count)
    return service.shutdown


def main(descriptor: int, count: int, seconds: float) -> None:
    """Runs the coordinator on an inherited listening socket until all processes have ended."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all of a job; it ends with the others
        signal.signal(number, signal.SIG_IGN)
    listener = socket.socket(fileno=descriptor)
    port = listener.getsockname()[1]
    coordinator = Coordinator(listener, count)
    if coordinator.connect(seconds):
        stop = host_service(port, count)
        coordinator.watch()
        if not coordinator.failed:
            stop()
    os._exit(0)  # the service of a failed run would wait for its processes


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
