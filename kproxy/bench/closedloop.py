"""Closed loops: a fixed number of connections, each as fast as its answers come.

For throughput and CPU per operation. Latency under a closed loop is that of a machine at its
limit; `openloop` measures what a user waits.
"""

import contextlib
import errno
import select
import socket
import time
from collections import Counter

from kproxy.bench import headroom, http, messages, network

_READ = 4096
_STUCK = 1.0  # seconds without an answer at the end of the load: a failure
_MANY_FAILURES = 10_000  # nobody is there: enough to say so


class _Flight:
    """One connection: what it waits for."""

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

    def __init__(self, plan: messages.Plan) -> None:
        self.plan = plan
        self.poll = headroom.Poll()
        self.flights: dict[int, _Flight] = {}
        self.times: list[float] = []
        self.failures: Counter[str] = Counter()
        self.done = 0
        self.began = time.perf_counter()
        self.end = self.began + plan.seconds

    def restart(self) -> None:
        """The clock starts now."""
        self.poll.restart()
        self.began = time.perf_counter()
        self.end = self.began + self.plan.seconds

    def is_over(self, now: float) -> bool:
        """Whether nothing is to be begun any more."""
        return (
            now >= self.end
            or 0 < self.plan.count <= self.done
            or (self.failures.total() > _MANY_FAILURES)
        )

    def fail(self, flight: _Flight, reason: str) -> None:
        self.failures[reason] += 1
        self.drop(flight)

    def drop(self, flight: _Flight) -> None:
        self.flights.pop(flight.socket.fileno(), None)
        flight.socket.close()

    def outcome(self) -> messages.Outcome:
        """Ends everything that is under way; what has waited too long has failed."""
        seconds = time.perf_counter() - self.began
        busy = self.poll.busy
        now = time.perf_counter()
        for flight in list(self.flights.values()):
            if not flight.timed and now - flight.began > _STUCK:
                self.failures["no answer"] += 1
            self.drop(flight)
        return messages.Outcome(
            seconds=seconds,
            done=self.done,
            times=self.times,
            failures=dict(self.failures),
            busy=busy,
        )

    def close(self) -> None:
        for flight in self.flights.values():
            flight.socket.close()
        self.poll.close()


def connect(plan: messages.Plan) -> messages.Outcome:
    """Short connections: connect, ask, read to the end of the stream, connect again.

    Done is a connection whose whole answer came, followed by a clean end. Ends early when nobody
    accepts connections any more.
    """
    with contextlib.closing(_Loop(plan)) as loop:
        source = _Sources(plan.clients)
        for _ in range(plan.connections):
            _launch(loop, source)
        while loop.flights and not loop.is_over(time.perf_counter()):
            for fd, _ in loop.poll.events(max(0.0, loop.end - time.perf_counter())):
                flight = loop.flights.get(fd)
                if flight is None:
                    continue
                if not flight.sent:
                    loop.poll.epoll.modify(fd, select.EPOLLIN)
                    ended = _ask(loop, flight)
                else:
                    ended = _follow(loop, flight)
                if ended and not loop.is_over(time.perf_counter()):
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
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    flight = _Flight(client, time.perf_counter())
    try:
        source.bind(client)
        begin_connect(client, loop.plan.target)
    except OSError as error:
        loop.fail(flight, type(error).__name__)
        return
    # On one machine the handshake is over already, as a rule: ask at once.
    if _ask(loop, flight):
        return
    loop.flights[client.fileno()] = flight
    loop.poll.epoll.register(client, select.EPOLLIN if flight.sent else select.EPOLLOUT)


def _ask(loop: _Loop, flight: _Flight) -> bool:
    """Send the request, if the connection stands. Whether the flight has ended (failed)."""
    try:
        flight.socket.send(http.GET_AND_CLOSE)
    except BlockingIOError:
        return False
    except OSError as error:
        loop.fail(flight, type(error).__name__)
        return True
    flight.sent = True
    return False


def _follow(loop: _Loop, flight: _Flight) -> bool:
    """Read; whether the connection has ended, well or badly."""
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
        loop.done += 1
        loop.drop(flight)
    else:
        loop.fail(flight, "closed without a whole answer")
    return True


def _is_whole(flight: _Flight) -> bool:
    flight.size = flight.size or http.answer_size(flight.received) or 0
    return 0 < flight.size <= len(flight.received)


def request(plan: messages.Plan) -> messages.Outcome:
    """Requests over connections that stay open, one in flight on each."""
    with contextlib.closing(_Loop(plan)) as loop:
        for client, size in opened(plan):
            flight = _Flight(client, 0.0)
            flight.size = size
            loop.flights[client.fileno()] = flight
            loop.poll.epoll.register(client, select.EPOLLIN)
        loop.restart()
        for flight in loop.flights.values():
            flight.began = time.perf_counter()
            flight.socket.send(http.GET)
        while loop.flights and not loop.is_over(time.perf_counter()):
            for fd, _ in loop.poll.events(max(0.0, loop.end - time.perf_counter())):
                _exchange(loop, loop.flights[fd])
        return loop.outcome()


def _exchange(loop: _Loop, flight: _Flight) -> None:
    """Read an answer; when it is whole, count it and ask again."""
    try:
        data = flight.socket.recv(_READ)
        if len(data) + len(flight.received) < flight.size and data:
            flight.received += data
            return
        if len(data) + len(flight.received) != flight.size:
            loop.fail(flight, "closed" if not data else "more than one answer")
            return
        flight.received = b""
        now = time.perf_counter()
        loop.times.append(now - flight.began)
        loop.done += 1
        flight.began = now
        flight.socket.send(http.GET)
    except OSError as error:
        loop.fail(flight, type(error).__name__)


def opened(plan: messages.Plan) -> list[tuple[socket.socket, int]]:
    """`plan.connections` connections, each answered once, and the size of their answers.

    The caller closes them. Raises OSError when one cannot be opened or is not answered.
    """
    clients: list[tuple[socket.socket, int]] = []
    source = _Sources(plan.clients)
    try:
        for _ in range(plan.connections):
            client = socket.socket()
            clients.append((client, 0))
            client.settimeout(plan.patience)
            source.bind(client)
            client.connect(plan.target)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(http.GET)
            clients[-1] = (client, _answered(client))
            client.setblocking(False)  # noqa: FBT003 (the socket's own)
    except BaseException:
        for client, _ in clients:
            client.close()
        raise
    return clients


def _answered(client: socket.socket) -> int:
    """Read one whole answer; its size. Raises OSError when it does not come."""
    received = b""
    while True:
        data = client.recv(_READ)
        if not data:
            raise ConnectionError("closed without an answer")
        received += data
        try:
            size = http.answer_size(received)
        except ValueError as error:
            raise ConnectionError(str(error)) from error
        if size is not None and len(received) >= size:
            return size
