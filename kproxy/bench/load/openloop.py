"""Open loops: requests at fixed moments, even if earlier ones are not yet answered.

Latency counts from the moment a request was *due*, not from when it was sent. When a server stalls
for a second, every user of that second waits; a generator that waits for it sends one request and
hides the others ("coordinated omission", Gil Tene). A connection that still awaits an answer gets
the next request nevertheless: answers come in order.
"""

import contextlib
import ctypes
import heapq
import select
import socket
import time
from collections import Counter, deque

from kproxy.bench.load import closedloop, headroom, http1, messages
from kproxy.bench.report import arithmetic

_READ = 65536
_PR_SET_TIMERSLACK = 29  # linux/prctl.h
_NANOSECOND = 1


def wake_precisely() -> None:
    """Ask the kernel to wake this thread on time instead of within 50 µs (PR_SET_TIMERSLACK)."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _NANOSECOND, 0, 0, 0)


class _Line:
    """A connection kept open, the numbers of its unanswered requests, and unsent bytes."""

    __slots__ = ("asked", "received", "size", "socket", "unsent")

    def __init__(self, client: socket.socket, size: int) -> None:
        self.socket = client
        self.size = size
        self.asked: deque[int] = deque()
        self.received = 0
        self.unsent = b""


def rate(
    plan: messages.Plan, clients: list[closedloop.Client], poll: headroom.Poll
) -> tuple[messages.Outcome, list[closedloop.Client]]:
    """`plan.rate` requests per second over `clients`, each in its turn. A `closedloop.Load`."""
    wake_precisely()
    lines = {client.fileno(): _Line(client, size) for client, size in clients}
    for client, _ in clients:
        poll.epoll.register(client, select.EPOLLIN)
    outcome = _rate(plan, poll, lines)
    good = []
    for line in lines.values():
        if line.asked or line.received or line.unsent:
            line.socket.close()
        elif line.socket.fileno() >= 0:
            poll.epoll.unregister(line.socket)
            good.append((line.socket, line.size))
    return outcome, good


def _rate(plan: messages.Plan, poll: headroom.Poll, lines: dict[int, _Line]) -> messages.Outcome:
    total = round(plan.rate * plan.seconds)
    finished: list[float | None] = [None] * total
    answered = 0
    failures: Counter[str] = Counter()
    order = list(lines.values())
    begin = plan.begin or time.monotonic()
    poll.restart()
    sent = 0
    end = begin + plan.seconds + plan.patience
    while answered + failures.total() < total:
        now = time.monotonic()
        if now >= end:
            break
        while sent < total and begin + sent / plan.rate <= now:
            _send(order[sent % len(order)], sent, poll, failures)
            sent += 1
        next_due = begin + sent / plan.rate if sent < total else end
        for fd, mask in poll.events(max(0.0, next_due - time.monotonic())):
            if mask & select.EPOLLOUT:
                _send_rest(lines[fd], poll)
            if mask & ~select.EPOLLOUT:
                answered += _receive(lines[fd], finished, poll, failures)
    missing = total - answered - failures.total()
    if missing:
        failures["no answer"] += missing
    return messages.Outcome(
        seconds=plan.seconds,
        done=answered,
        times=arithmetic.latency_from_intended(begin, 1 / plan.rate, finished),
        failures=dict(failures),
        busy=poll.busy,
    )


def _send(line: _Line, number: int, poll: headroom.Poll, failures: Counter[str]) -> None:
    if line.socket.fileno() < 0:
        failures["connection lost"] += 1
        return
    line.asked.append(number)
    if line.unsent:
        line.unsent += http1.GET
        return
    try:
        sent = line.socket.send(http1.GET)
    except BlockingIOError:
        sent = 0
    except OSError:
        return  # what has arrived is read first, then the end
    if sent < len(http1.GET):
        line.unsent = http1.GET[sent:]
        poll.epoll.modify(line.socket, select.EPOLLIN | select.EPOLLOUT)


def _send_rest(line: _Line, poll: headroom.Poll) -> None:
    with contextlib.suppress(OSError):  # reading will find its end
        line.unsent = line.unsent[line.socket.send(line.unsent) :]
    if not line.unsent:
        poll.epoll.modify(line.socket, select.EPOLLIN)


def _receive(
    line: _Line, finished: list[float | None], poll: headroom.Poll, failures: Counter[str]
) -> int:
    """Read, and note the moment for each request whose answer is complete. Returns their number."""
    try:
        count = len(line.socket.recv(_READ))
    except OSError:
        count = 0
    now = time.monotonic()
    if not count:
        failures["connection lost"] += len(line.asked)
        line.asked.clear()
        poll.epoll.unregister(line.socket)
        line.socket.close()
        return 0
    line.received += count
    answered = 0
    while line.received >= line.size and line.asked:
        line.received -= line.size
        finished[line.asked.popleft()] = now
        answered += 1
    return answered


class _Arrival:
    """A new connection on its way to an answer, and which one it is."""

    __slots__ = ("number", "received", "sent", "socket")

    def __init__(self, client: socket.socket, number: int) -> None:
        self.socket = client
        self.number = number
        self.received = b""
        self.sent = False


def arrivals(plan: messages.Plan, poll: headroom.Poll) -> messages.Outcome:
    """`plan.rate` new connections per second, one request each; closed once answered."""
    wake_precisely()
    loop = _Arrivals(plan, poll)
    try:
        return loop.run()
    finally:
        loop.close()


class _Arrivals:
    def __init__(self, plan: messages.Plan, poll: headroom.Poll) -> None:
        self._plan = plan
        self._poll = poll
        self._pending: dict[int, _Arrival] = {}
        self._deadlines: list[tuple[float, int, _Arrival]] = []
        self._finished: list[float | None] = [None] * round(plan.rate * plan.seconds)
        self._answered = 0
        self._failures: Counter[str] = Counter()

    def run(self) -> messages.Outcome:
        plan = self._plan
        total = len(self._finished)
        begin = plan.begin or time.monotonic()
        self._poll.restart()
        begun = 0
        while begun < total or self._pending:
            now = time.monotonic()
            while begun < total and (due := begin + begun / plan.rate) <= now:
                self._begin(due, begun)
                begun += 1
            self._expire(now)
            wake = begin + begun / plan.rate if begun < total else now + plan.patience
            if self._deadlines:
                wake = min(wake, self._deadlines[0][0])
            for fd, _ in self._poll.events(max(0.0, wake - time.monotonic())):
                if fd in self._pending:
                    self._follow(self._pending[fd])
        return messages.Outcome(
            seconds=plan.seconds,
            done=self._answered,
            times=arithmetic.latency_from_intended(begin, 1 / plan.rate, self._finished),
            failures=dict(self._failures),
            busy=self._poll.busy,
        )

    def close(self) -> None:
        for arrival in self._pending.values():
            arrival.socket.close()

    def _begin(self, due: float, number: int) -> None:
        client = socket.socket()
        arrival = _Arrival(client, number)
        self._pending[client.fileno()] = arrival
        heapq.heappush(self._deadlines, (due + self._plan.patience, number, arrival))
        try:
            closedloop.begin_connect(client, self._plan.target)
        except OSError as error:
            self._end(arrival, type(error).__name__)
            return
        self._poll.epoll.register(client, select.EPOLLOUT)

    def _follow(self, arrival: _Arrival) -> None:
        try:
            if not arrival.sent:
                arrival.socket.send(http1.GET_AND_CLOSE)
                arrival.sent = True
                self._poll.epoll.modify(arrival.socket, select.EPOLLIN)
                return
            data = arrival.socket.recv(_READ)
            arrival.received += data
            size = http1.answer_size(arrival.received)
        except (OSError, ValueError) as error:
            self._end(arrival, type(error).__name__)
            return
        if size is not None and len(arrival.received) >= size:
            self._finished[arrival.number] = time.monotonic()
            self._answered += 1
            self._end(arrival)
        elif not data:
            self._end(arrival, "closed without an answer")

    def _expire(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, arrival = heapq.heappop(self._deadlines)
            if arrival.socket.fileno() >= 0:
                self._end(arrival, "no answer")

    def _end(self, arrival: _Arrival, failure: str = "") -> None:
        if failure:
            self._failures[failure] += 1
        del self._pending[arrival.socket.fileno()]
        arrival.socket.close()
