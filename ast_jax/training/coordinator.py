"""Watches the processes of a pod from a process of its own, which the first of them starts.

It waits until all have connected, hosts JAX's coordination service, and tells the others when one
fails or disappears. `jax.distributed.initialize` hosts the service in process 0: if that is killed,
all others abort with a stack dump. They still do if the whole machine of process 0 fails, or if a
launcher kills the coordinator with the last process of the machine.

The processes and the coordinator exchange lines of JSON over TCP. A process begins with its
`process` (index), `of` (number of processes) and `host`, and ends with its exit `status` and a
`message`. The coordinator answers with `start`, and later perhaps with a `failure`.

The file runs as a script that imports nothing of the package.
"""

import json
import os
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

INTERRUPTED = 130  # exit status
START_SECONDS = 300.0  # for all processes to connect, by default
# The processes of a pod agree to stop on SIGTERM or Ctrl-C. If one stops alone, the coordinator
# ends the others after this time.
INTERRUPT_SECONDS = 60.0
END_SECONDS = 60.0  # after a failure, for all processes to end; then JAX's service ends
MAX_LINE = 65536  # bytes

Message = dict[str, Any]


@dataclass(eq=False)
class Connection:
    """One end of a TCP connection that carries lines of JSON.

    Attributes:
        socket: of the connection.
        unread: bytes that have arrived.
    """

    socket: socket.socket
    unread: bytes = b""

    def send(self, **message: Any) -> None:
        """Sends a message; a broken connection is left to `receive`."""
        with suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Message | None:
        """Returns the next message, after waiting for it; None at the end of the connection.

        Malformed input ends the connection.
        """
        while (message := self.pop()) == {}:
            if not self.read():
                return None
        return message

    def read(self) -> bool:
        """Reads what has arrived, after waiting for it; returns False at the end."""
        try:
            received = self.socket.recv(MAX_LINE)
        except OSError:
            return False
        self.unread += received
        return bool(received)

    def pop(self) -> Message | None:
        """Returns the first message read; {} if there is none yet, None if it is malformed."""
        line, newline, rest = self.unread.partition(b"\n")
        if not newline:
            return {} if len(line) <= MAX_LINE else None
        self.unread = rest
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return message if isinstance(message, dict) and message else None


@dataclass(eq=False)
class Member(Connection):
    """A connection of the coordinator to a process.

    Attributes:
        process: index of the process; None before its first message.
        host: of the process.
        status: exit status, None before the process has reported its end.
    """

    process: int | None = None
    host: str = ""
    status: int | None = None

    @property
    def name(self) -> str:
        """Name of the process in messages."""
        return f"process {self.process} ({self.host})"

    @property
    def connected(self) -> bool:
        """Whether the connection is open."""
        return self.socket.fileno() >= 0


class Coordinator:
    """Connects the processes of a pod and watches them.

    Args:
        listener: the listening socket.
        count: number of processes.

    Attributes:
        members: the processes that have connected, by index.
        failed: whether a failure was broadcast.
    """

    def __init__(self, listener: socket.socket, count: int):
        self.listener, self.count = listener, count
        self.members: dict[int, Member] = {}
        self.failed = False
        self.end = float("inf")  # time at which `watch` returns
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ)

    def connect(self, seconds: float) -> bool:
        """Waits until every process has connected; returns whether all did in time."""
        deadline = time.monotonic() + seconds
        while len(self.members) < self.count and not self.failed:
            if time.monotonic() >= deadline:
                self.fail(self.describe_missing(seconds))
                break
            for member, message in self.events(deadline):
                if message is None:
                    self.handle_disconnect(member)
                elif member.process is None:
                    self.register(member, message)
        self.selector.unregister(self.listener)
        self.listener.close()
        return not self.failed

    def watch(self) -> None:
        """Starts all processes and returns when they have ended; broadcasts a failure."""
        self.broadcast(start=True)
        interrupt_deadline = float("inf")
        interrupted = None
        while (
            any(member.connected for member in self.members.values())
            and time.monotonic() < self.end
        ):
            if interrupted and time.monotonic() >= interrupt_deadline:
                self.fail(f"{interrupted.name} was interrupted alone")
                interrupted = None
            deadline = min(interrupt_deadline if interrupted else float("inf"), self.end)
            for member, message in self.events(deadline):
                if message is None:
                    self.handle_disconnect(member)
                elif member.process is not None and isinstance(message.get("status"), int):
                    member.status = message["status"]
                    if member.status == INTERRUPTED and interrupted is None:
                        interrupted = member
                        interrupt_deadline = time.monotonic() + INTERRUPT_SECONDS
                    elif member.status not in (0, INTERRUPTED):
                        self.fail(f"{member.name} failed: {message.get('message')}")

    def events(self, deadline: float) -> Iterator[tuple[Member, Message | None]]:
        """Waits until a deadline; yields messages, None at the end of a connection."""
        seconds = None if deadline == float("inf") else max(deadline - time.monotonic(), 0)
        for key, _ in self.selector.select(seconds):
            if key.data is None:
                self.accept()
                continue
            member = key.data
            is_open = member.read()
            while message := member.pop():
                yield member, message
            if not is_open or message is None:
                self.selector.unregister(member.socket)
                member.socket.close()
                yield member, None

    def accept(self) -> None:
        """Accepts a connection."""
        try:
            accepted, _ = self.listener.accept()
        except OSError:  # it has ended already
            return
        enable_keep_alive(accepted)
        accepted.settimeout(10)  # for sends to a process that does not read
        self.selector.register(accepted, selectors.EVENT_READ, Member(accepted))

    def register(self, member: Member, message: Message) -> None:
        """Adds a process to the members; a wrong number of processes or a second index fails."""
        process, of = message.get("process"), message.get("of")
        if not isinstance(process, int) or not isinstance(of, int):
            return
        member.process, member.host = process, str(message.get("host"))
        if of != self.count or not 0 <= process < self.count:
            failure = (
                f"{member.name} was started as one of {of} and the first as one of {self.count}; "
                f"give all the same --num-processes"
            )
        elif process in self.members:
            failure = (
                f"{self.members[process].name} and another on {member.host} have the same "
                f"--process-id; give each its own, 0 to {self.count - 1}"
            )
        else:
            self.members[process] = member
            return
        member.send(failure=failure)
        self.fail(failure)

    def handle_disconnect(self, member: Member) -> None:
        """Handles the end of a connection, a failure unless the process has reported its end."""
        if member in self.members.values() and member.status is None:
            self.fail(
                f"{member.name} has disappeared: it was killed, is out of memory, or its machine "
                f"cannot be reached"
            )

    def fail(self, failure: str) -> None:
        """Broadcasts the first failure."""
        if not self.failed:
            self.failed = True
            self.end = time.monotonic() + END_SECONDS
            self.broadcast(failure=failure)

    def broadcast(self, **message: Any) -> None:
        """Sends a message to all members."""
        for member in self.members.values():
            member.send(**message)

    def describe_missing(self, seconds: float) -> str:
        """Returns a sentence about the processes that have not connected."""
        missing = [str(i) for i in range(self.count) if i not in self.members]
        listed = ", ".join(missing[:10]) + f" and {len(missing) - 10} more" * (len(missing) > 10)
        return (
            f"process{'es' * (len(missing) > 1)} {listed} of {self.count} did not start within "
            f"{seconds:g} s; check their logs, or give more time by --start-timeout"
        )


def enable_keep_alive(connection: socket.socket) -> None:
    """Enables TCP keep-alive: a connection to a machine that is unreachable for 30 s closes."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # of Linux
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def listen(port: int) -> socket.socket:
    """Returns a socket that listens on a port of all addresses of this machine.

    Raises:
        OSError: the port is in use.
    """
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def start_jax_service(port: int, count: int) -> Callable[[], None]:
    """Starts JAX's coordination service on a port; returns the function that stops it."""
    from jax._src.lib import _jax  # no public name

    # The timeouts are those of `jax.distributed.initialize`.
    service = _jax.get_distributed_runtime_service(
        f"[::]:{port}", count, heartbeat_timeout=100, shutdown_timeout=300
    )
    return service.shutdown


def main(descriptor: int, count: int, seconds: float) -> None:
    """Runs the coordinator until all processes have ended.

    Args:
        descriptor: of a listening socket.
        count: number of processes.
        seconds: for all to connect.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all of a job; it ends with the others
        signal.signal(number, signal.SIG_IGN)
    listener = socket.socket(fileno=descriptor)
    port = listener.getsockname()[1]
    coordinator = Coordinator(listener, count)
    if coordinator.connect(seconds):
        try:
            stop = start_jax_service(port, count)
        except Exception as error:
            coordinator.fail(f"JAX's coordination service cannot start on port {port} ({error})")
        else:
            coordinator.watch()
            # JAX aborts a process that is still there when the service stops. Process 0 may be, as
            # it waits for the end of this output; the pipe of the input closes when it ends.
            os.close(sys.stdout.fileno())
            select.select([sys.stdin], [], [], END_SECONDS)
            if not coordinator.failed:
                stop()
    os._exit(0)  # the service of a failed run would wait for its processes


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
