"""One epoll for all sockets: no event reaches the wrong handler, no handler the wrong event."""

import asyncio
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest
import structlog

from kproxy.datapath import poller, syscalls
from tests.datapath.rig import faulty, harness


class Handler:
    """Records its events, and does what a test tells it on each."""

    def __init__(self, act: Callable[[int], None] | None = None) -> None:
        self.masks: list[int] = []
        self.bugs = 0
        self.resumed = 0
        self._act = act

    def on_events(self, mask: int) -> None:
        self.masks.append(mask)
        if self._act is not None:
            self._act(mask)

    def resume(self) -> None:
        self.resumed += 1
        if self._act is not None:
            self._act(0)

    def on_bug(self) -> None:
        self.bugs += 1


class Wires:
    """Socket pairs: `near` ends are watched, `far` ends make them readable."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def pair(self) -> tuple[socket.socket, socket.socket]:
        near, far = socket.socketpair()
        near.setblocking(False)
        self._sockets += (near, far)
        return near, far

    def readable(self) -> socket.socket:
        near, far = self.pair()
        far.send(b"x")
        return near

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def wires() -> Iterator[Wires]:
    made = Wires()
    yield made
    made.close()


@pytest.fixture
def loop() -> Iterator[poller.Poller]:
    """A poller that turns only when a test says so."""
    made = poller.Poller(syscalls.Kernel())
    yield made
    made.close()


def fail(mask: int) -> None:
    raise ZeroDivisionError("a bug, on purpose")


def test_an_event_for_a_connection_closed_in_the_same_batch_is_dropped_and_counted(
    loop: poller.Poller, wires: Wires
) -> None:
    first, second = wires.readable(), wires.readable()
    ends = {first: Handler(), second: Handler()}

    def close_both(mask: int) -> None:
        for sock in ends:
            loop.close_later(sock.fileno(), sock)

    for sock in ends:
        handler = ends[sock] = Handler(close_both)
        loop.register(sock.fileno(), handler, poller.RELAY)
    loop.turn()
    assert sum(len(handler.masks) for handler in ends.values()) == 1
    assert loop.stale_events == 1


def test_sockets_are_closed_after_the_last_event_of_the_batch(
    loop: poller.Poller, wires: Wires
) -> None:
    victim = wires.readable()
    number = victim.fileno()
    made_meanwhile: list[int] = []

    def close_then_open(mask: int) -> None:
        if not made_meanwhile:
            loop.close_later(number, victim)
            assert victim.fileno() == number, "closed while events of the batch are waiting"
            made_meanwhile.append(wires.readable().fileno())

    for sock in (victim, wires.readable()):
        loop.register(sock.fileno(), Handler(close_then_open), poller.RELAY)
    loop.turn()
    assert victim.fileno() == -1
    assert number not in made_meanwhile


def test_a_recycled_number_belongs_to_its_new_handler_alone(
    loop: poller.Poller, wires: Wires
) -> None:
    victim, heir = wires.readable(), wires.readable()
    number = victim.fileno()
    old, new = Handler(), Handler()
    loop.register(number, old, poller.RELAY)
    loop.close_later(number, victim)
    loop.turn()
    assert fcntl.fcntl(heir.fileno(), fcntl.F_DUPFD_CLOEXEC, number) == number
    try:
        loop.register(number, new, poller.RELAY)
        loop.turn()
        loop.unregister(number)
    finally:
        os.close(number)
    assert old.masks == []
    assert len(new.masks) == 1


def test_a_handler_that_raises_ends_only_itself(loop: poller.Poller, wires: Wires) -> None:
    handlers = [Handler(), Handler(fail), Handler()]
    for handler in handlers:
        loop.register(wires.readable().fileno(), handler, poller.RELAY)
    with structlog.testing.capture_logs() as log:
        loop.turn()
    assert [len(handler.masks) for handler in handlers] == [1, 1, 1]
    assert [handler.bugs for handler in handlers] == [0, 1, 0]
    assert loop.bugs == 1
    assert [(entry["log_level"], entry["exc_info"]) for entry in log] == [("error", True)]


def test_others_can_see_whether_a_handler_waits(loop: poller.Poller, wires: Wires) -> None:
    assert not loop.has_events
    near, far = wires.pair()
    handler = Handler()
    loop.register(near.fileno(), handler, poller.RELAY)
    assert not loop.has_events
    far.send(b"x")
    assert loop.has_events
    loop.turn()
    assert handler.masks
    assert not loop.has_events
    loop.resume_later(handler)
    assert loop.has_events
    loop.turn()
    assert not loop.has_events


def test_bugs_that_keep_coming_do_not_flood_the_log(loop: poller.Poller) -> None:
    with structlog.testing.capture_logs() as log:
        for _ in range(100):
            loop.resume_later(Handler(fail))
        loop.turn()
    assert loop.bugs == 100
    assert 0 < len(log) < 10


def test_a_target_is_resumed_once_however_often_it_asked(loop: poller.Poller) -> None:
    """Else every event of a busy stream would add a budget to those it has already."""
    handler = Handler()
    for _ in range(5):
        loop.resume_later(handler)
    loop.turn()
    loop.turn()
    assert handler.resumed == 1


def test_a_bug_in_a_resumed_handler_ends_only_that_one(loop: poller.Poller) -> None:
    bad, good = Handler(fail), Handler()
    loop.resume_later(bad)
    loop.resume_later(good)
    loop.turn()
    assert (bad.bugs, good.bugs, good.resumed, loop.bugs) == (1, 0, 1, 1)


def test_a_handler_that_always_wants_more_gets_one_budget_per_batch(
    loop: poller.Poller, wires: Wires
) -> None:
    """A ping-pong beside a firehose is served between any two of the firehose's budgets."""
    ball, player = wires.pair()
    player.setblocking(False)
    order: list[str] = []

    def pour(mask: int) -> None:
        order.append("firehose")
        if len(order) < 200:
            loop.resume_later(firehose)

    def hit_back(mask: int) -> None:
        order.append("ping-pong")
        ball.recv(1)
        player.send(b"x")

    firehose = Handler(pour)
    loop.register(ball.fileno(), Handler(hit_back), poller.RELAY)
    player.send(b"x")
    loop.resume_later(firehose)
    for _ in range(200):
        loop.turn()
    assert order.count("firehose") >= 100
    assert "firehose firehose" not in " ".join(order[:200])


def test_a_turn_gives_the_event_loop_its_chance_however_much_there_is_to_do(
    loop: poller.Poller, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1_000_000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) * 0.001)
    for _ in range(2):
        near, far = wires.pair()

        def refill(mask: int, near: socket.socket = near, far: socket.socket = far) -> None:
            near.recv(1)
            far.send(b"x")

        far.send(b"x")
        loop.register(near.fileno(), Handler(refill), poller.RELAY)
    loop.turn()
    assert next(clock) < 10


def test_numbers_beyond_the_table_are_served_too(loop: poller.Poller, wires: Wires) -> None:
    high = fcntl.fcntl(wires.readable().fileno(), fcntl.F_DUPFD_CLOEXEC, 3000)
    handler = Handler()
    try:
        assert not loop.is_registered(high, handler)
        loop.register(high, handler, poller.RELAY)
        assert loop.is_registered(high, handler)
        loop.turn()
        loop.unregister(high)
    finally:
        os.close(high)
    assert len(handler.masks) == 1


def test_rearming_reports_what_is_ready_now(loop: poller.Poller, wires: Wires) -> None:
    sock, handler = wires.readable(), Handler()
    loop.register(sock.fileno(), handler, poller.RELAY)
    loop.turn()
    loop.turn()
    assert [mask & poller.WRITABLE for mask in handler.masks] == [0]
    loop.rearm(sock.fileno(), poller.RELAY_BOTH)
    loop.turn()
    assert handler.masks[1:] == [poller.READABLE | poller.WRITABLE]


def test_events_go_to_the_handler_that_replaced_the_first(
    loop: poller.Poller, wires: Wires
) -> None:
    sock, first, second = wires.readable(), Handler(), Handler()
    loop.register(sock.fileno(), first, poller.RELAY)
    loop.replace(sock.fileno(), second)
    loop.turn()
    assert (len(first.masks), len(second.masks)) == (0, 1)


def test_a_failed_registration_leaves_no_handler(wires: Wires) -> None:
    kernel = faulty.FaultyKernel()
    made = poller.Poller(kernel)
    sock, handler = wires.readable(), Handler()
    kernel.fail("register", 12)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        made.register(sock.fileno(), handler, poller.RELAY)
    assert not made.is_registered(sock.fileno(), handler)
    made.close()


async def test_between_turns_the_event_loop_closes_and_resumes(wires: Wires) -> None:
    made = poller.Poller(syscalls.Kernel())
    made.attach(asyncio.get_running_loop())
    sock, waiter = wires.readable(), Handler()
    made.close_later(sock.fileno(), sock)
    made.resume_later(waiter)
    await harness.until(lambda: sock.fileno() == -1 and waiter.resumed, "the loop turns")
    made.close()


async def test_closing_closes_what_was_waiting_for_the_end_of_a_batch(wires: Wires) -> None:
    made = poller.Poller(syscalls.Kernel())
    made.attach(asyncio.get_running_loop())
    sock = wires.readable()
    made.close_later(sock.fileno(), sock)
    made.close()
    assert sock.fileno() == -1
