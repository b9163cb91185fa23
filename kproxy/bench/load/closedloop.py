"""Closed loops: a fixed number of connections, each as fast as its answers come.

For throughput and CPU per operation. Latency under a closed loop is that of a machine at its
limit; `openloop` measures how long a user waits.

When the time is up no operation is started; those under way are awaited and counted. So a load of
10 ms is as exact as a long one, and leaves no work for the turn of the next subject.
"""

import contextlib
import errno
import select
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from kproxy.bench.lab import network
from kproxy.bench.load import headroom, http1, messages

Client: TypeAlias = tuple[socket.socket, int]
"""An open connection, and the size of the answers that come over it."""

Load: TypeAlias = Callable[
    [messages.Plan, list[Client], headroom.Poll], tuple[messages.Outcome, list[Client]]
]
"""A load over open connections. It owns them while it runs, and returns the usable ones for the
caller to close."""

_READ = 4096
_STUCK = 1.0  # seconds to wait for the last answers when the time is up
_MANY_FAILURES = 10_000  # so many failures in a row mean that nothing listens


class _Flight:
    """One connection. `timed` means that it waits for no answer: its time, if any, is taken."""

    __slots__ = ("began", "received", "sent", "size", "socket", "timed")

    def __init__(self, client: socket.socket, began: float) -> None:
        self.socket = client
        self.began = began
        self.received = b""
        self.size = 0  # of the answer; 0: not known yet
        self.sent = False
        self.timed = False


class _Loop:
    """What both closed loops share: the flights, the clock and the tally."""

    def __init__(self, plan: messages.Plan, poll: headroom.Poll) -> None:
        self.plan = plan
        self.poll = poll
        self.flights: dict[int, _Flight] = {}
        self.times: list[float] = []
        self.failures: Counter[str] = Counter()
        self.left = plan.count or -1
        """Operations that are yet to be started; negative: as many as time allows."""
        self.done = 0
        self.under_way = 0
        """Requests over connections that stay open, which have not been answered yet."""
        self.poll.restart()
        self.began = self.ended = time.perf_counter()
        """When the load began, and when the last operation that counts ended."""
        self.end = self.began + plan.seconds

    def is_over(self) -> bool:
        """Whether the time is up, or so many operations failed that nothing can be listening."""
        return time.perf_counter() >= self.end or self.failures.total() > _MANY_FAILURES

    def events(self) -> list[tuple[int, int]]:
        """The connections that are ready; empty when the missing answers are overdue."""
        return self.poll.events(max(0.0, self.end + _STUCK - time.perf_counter()))

    def fail(self, flight: _Flight, reason: str) -> None:
        self.failures[reason] += 1
        self.drop(flight)

    def drop(self, flight: _Flight) -> None:
        self.flights.pop(flight.socket.fileno(), None)
        flight.socket.close()

    def outcome(self) -> messages.Outcome:
        """The outcome. A connection that has no answer by now has failed."""
        busy = self.poll.busy
        for flight in list(self.flights.values()):
            if not flight.timed:
                self.fail(flight, "no answer")
        return messages.Outcome(
            seconds=(self.ended if self.done else time.perf_counter()) - self.began,
            done=self.done,
            times=self.times,
            failures=dict(self.failures),
            busy=busy,
        )

    def close(self) -> None:
        for flight in self.flights.values():
            flight.socket.close()


def connect(plan: messages.Plan, poll: headroom.Poll) -> messages.Outcome:
    """Short connections: connect, ask, read to the end of the stream, connect again.

    A connection is done when its whole answer came, followed by an orderly end. The load ends
    early when nothing accepts connections.
    """
    with contextlib.closing(_Loop(plan, poll)) as loop:
        source = _Sources(plan.clients)
        for _ in range(min(plan.connections, plan.count or plan.connections)):
            _launch(loop, source)
        while loop.flights:
            events = loop.events()
            if not events:
                break
            is_over = loop.is_over()
            for fd, _ in events:
                flight = loop.flights.get(fd)
                if flight is None:
                    continue
                if not flight.sent:
                    loop.poll.epoll.modify(fd, select.EPOLLIN)
                    ended = _ask(loop, flight)
                else:
                    ended = _follow(loop, flight)
                if ended and loop.left and not is_over:
                    _launch(loop, source)
        return loop.outcome()


class _Sources:
    """The addresses connections come from, in turn."""

    def __init__(self, clients: int) -> None:
        self._clients = clients
        self._next = 0

    def bind(self, client: socket.socket) -> None:
        if self._clients:
            # Bound to an address but not a port: the kernel chooses one when it connects.
            client.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            number = self._next % self._clients
            self._next += 1
            client.bind((client_address(number), 0))


_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; not in the socket module


def client_address(number: int) -> str:
    """The address of client `number`, in 127.77.0.0/16. At most 65,024 of them."""
    return f"127.77.{number // 254}.{number % 254 + 1}"


def begin_connect(client: socket.socket, target: network.Address) -> None:
    """Start connecting. Raises OSError when it has failed already."""
    client.setblocking(False)  # noqa: FBT003 (the socket's own)
    code = client.connect_ex(target)
    if code not in (0, errno.EINPROGRESS):
        raise OSError(code, errno.errorcode.get(code, "unknown"))


def _launch(loop: _Loop, source: _Sources) -> None:
    loop.left -= 1
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    flight = _Flight(client, time.perf_counter())
    try:
        source.bind(client)
        begin_connect(client, loop.plan.target)
    except OSError as error:
        loop.fail(flight, type(error).__name__)
        return
    # On one machine the handshake is usually complete by now: send the request at once.
    if _ask(loop, flight):
        return
    loop.flights[client.fileno()] = flight
    loop.poll.epoll.register(client, select.EPOLLIN if flight.sent else select.EPOLLOUT)


def _ask(loop: _Loop, flight: _Flight) -> bool:
    """Send the request, if the connection is established. Returns whether it has failed."""
    try:
        flight.socket.send(http1.GET_AND_CLOSE)
    except BlockingIOError:
        return False
    except OSError as error:
        loop.fail(flight, type(error).__name__)
        return True
    flight.sent = True
    return False


def _follow(loop: _Loop, flight: _Flight) -> bool:
    """Read. Returns whether the connection has ended, in order or not."""
    try:
        data = flight.socket.recv(_READ)
        if data:
            flight.received += data
            if not flight.timed and _is_whole(flight):
                flight.timed = True
                loop.times.append(time.perf_counter() - flight.began)
            return False
    except (OSError, ValueError) as error:
        loop.fail(flight, type(error).__name__)
        return True
    if flight.timed and len(flight.received) == flight.size:
        loop.ended = time.perf_counter()
        loop.done += 1
        loop.drop(flight)
    else:
        loop.fail(flight, "closed without a whole answer")
    return True


def _is_whole(flight: _Flight) -> bool:
    flight.size = flight.size or http1.answer_size(flight.received) or 0
    return 0 < flight.size <= len(flight.received)


def request(
    plan: messages.Plan, clients: list[Client], poll: headroom.Poll
) -> tuple[messages.Outcome, list[Client]]:
    """Requests over `clients`, one in flight on each. A `Load`."""
    for client, _ in clients:
        poll.epoll.register(client, select.EPOLLIN)
    with contextlib.closing(_Loop(plan, poll)) as loop:
        for client, size in clients:
            flight = _Flight(client, 0.0)
            flight.size = size
            flight.timed = True
            loop.flights[client.fileno()] = flight
        asked = list(loop.flights.values())[: plan.count or None]
        loop.under_way = len(asked)
        for flight in asked:
            flight.began = time.perf_counter()
            flight.timed = False
            _ask_again(loop, flight)
        while loop.under_way:
            events = loop.events()
            if not events:
                break
            is_over = loop.is_over()
            for fd, _ in events:
                _exchange(loop, loop.flights[fd], is_over=is_over)
        outcome = loop.outcome()
        good = [(flight.socket, flight.size) for flight in loop.flights.values()]
        for client, _ in good:
            poll.epoll.unregister(client)
        loop.flights.clear()
        return outcome, good


def _exchange(loop: _Loop, flight: _Flight, *, is_over: bool) -> None:
    """Read an answer; when it is whole, count it and, unless it is over, ask again."""
    try:
        data = flight.socket.recv(_READ)
    except OSError as error:
        _lose(loop, flight, type(error).__name__)
        return
    received = len(data) + len(flight.received)
    if received < flight.size and data:
        flight.received += data
        return
    if received != flight.size or flight.timed:
        _lose(loop, flight, "closed" if not data else "more than one answer")
        return
    flight.received = b""
    loop.ended = now = time.perf_counter()
    loop.times.append(now - flight.began)
    loop.done += 1
    if is_over or not loop.left:
        flight.timed = True
        loop.under_way -= 1
    else:
        flight.began = now
        _ask_again(loop, flight)


def _ask_again(loop: _Loop, flight: _Flight) -> None:
    loop.left -= 1
    try:
        flight.socket.send(http1.GET)
    except OSError as error:
        _lose(loop, flight, type(error).__name__)


def _lose(loop: _Loop, flight: _Flight, reason: str) -> None:
    """A kept connection has failed, possibly after its last answer."""
    loop.under_way -= not flight.timed
    loop.fail(flight, reason)


def opened(plan: messages.Plan) -> list[Client]:
    """`plan.connections` connections, each answered once.

    The caller closes them. Raises OSError when one cannot be opened or is not answered.
    """
    clients: list[Client] = []
    source = _Sources(plan.clients)
    try:
        for _ in range(plan.connections):
            client = socket.socket()
            clients.append((client, 0))
            client.settimeout(plan.patience)
            source.bind(client)
            client.connect(plan.target)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(http1.GET)
            clients[-1] = (client, _answered(client))
            client.setblocking(False)  # noqa: FBT003 (the socket's own)
    except BaseException:
        close(clients)
        raise
    return clients


def close(clients: list[Client]) -> None:
    """Close what `opened` and `request` return."""
    for client, _ in clients:
        client.close()


def _answered(client: socket.socket) -> int:
    """Read one whole answer and return its size. Raises OSError when it does not come."""
    received = b""
    while True:
        data = client.recv(_READ)
        if not data:
            raise ConnectionError("closed without an answer")
        received += data
        try:
            size = http1.answer_size(received)
        except ValueError as error:
            raise ConnectionError(str(error)) from error
        if size is not None and len(received) >= size:
            return size
