"""An in-process data path with everything around it, and proof that nothing of it is left.

A `Harness` makes data paths, the backends behind them and the actors on both sides. Its `finish`
ends the peers that still talk, waits until each data path has let go of everything itself, closes
it, and compares with what was there before: descriptors, tasks, timers.
"""

import asyncio
import collections
import contextlib
import dataclasses
import errno
import itertools
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from kproxy.balancer import balancer, penalty
from kproxy.datapath import data_path, syscalls
from kproxy.datapath.tcp import connection, dial, probe, relay
from kproxy.datapath.tcp.accept import listener
from kproxy.model import addresses, forwarding, names
from tests.datapath.rig import faulty
from tests.relay import actor

PROMPT: Final = 15.0
"""Seconds within which what needs no waiting for must be seen; a bound, not an expectation."""

ANY: Final = -1
"""For `DataPath.bugs`: it does not matter how a failure was contained."""

_PATIENCE: Final = 30.0
_SERVICE_PORTS: Final = range(20000, 32000)
"""Below the ephemeral ports, as real services are: dials to such ports need no self-test."""

_ports = itertools.cycle(random.sample(_SERVICE_PORTS, len(_SERVICE_PORTS)))


@contextlib.asynccontextmanager
async def within(what: str, seconds: float = PROMPT) -> AsyncIterator[None]:
    """Require that the block ends in time; `what` says what it waits for."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise AssertionError(f"waited {seconds:g} s in vain: {what}") from None


async def until(condition: Callable[[], object], what: str, seconds: float = PROMPT) -> None:
    """Wait for state that announces no change."""
    async with within(what, seconds):
        await actor.until(condition)


def settled(condition: Callable[[], object], what: str) -> None:
    """Wait for what the kernel alone brings about, while the event loop does not turn."""
    ends = time.monotonic() + PROMPT
    while not condition():
        assert time.monotonic() < ends, f"waited {PROMPT:g} s in vain: {what}"
        time.sleep(0.001)


def accept_queue(listening: syscalls.StreamSocket) -> tuple[int, int]:
    """How many connections wait to be accepted, and how many may.

    A listener's TCP_INFO has the queue's length as unacked and its limit as sacked.
    """
    info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    length, limit = (int.from_bytes(info[at : at + 4], sys.byteorder) for at in (24, 28))
    return length, limit


def congestion_control(sock: syscalls.StreamSocket) -> bytes:
    """What a TCP socket sends by: b"reno", b"bbr"..."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


def open_files() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # iterdir() may stay open


def descriptors() -> set[tuple[str, str]]:
    """This process's descriptors, each with what it stands for.

    What earlier tests left to the garbage collector may be closed at any time: to find what a test
    leaves, ask which descriptors are new, and not how many there are.
    """
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # iterdir() may stay open
        with contextlib.suppress(FileNotFoundError):
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))  # noqa: PTH115  # as above
    return found


def is_still_watching() -> bool:
    """Whether a file watch of an earlier test is about to close its descriptors, from a thread."""
    kinds = collections.Counter(kind for _, kind in descriptors())
    own_epoll = 1
    return (
        kinds["anon_inode:inotify"] > 0
        or kinds["anon_inode:[eventfd]"] > 0
        or kinds["anon_inode:[eventpoll]"] > own_epoll
    )


class Scripted:
    """A picker that offers its backends in order: no balancer, no penalty box."""

    def __init__(self, *backends: addresses.SocketAddress) -> None:
        self.backends = list(backends)

    def pick(self, client: str, now: float) -> addresses.SocketAddress | None:
        return self.backends[0] if self.backends else None

    def repick(
        self, client: str, tried: Sequence[addresses.SocketAddress], now: float
    ) -> addresses.SocketAddress | None:
        untried = [backend for backend in self.backends if backend not in tried]
        return next(iter(untried or self.backends), None)

    def has_alternative(self, _client: str, tried: Sequence[addresses.SocketAddress]) -> bool:
        return any(backend not in tried for backend in self.backends)


class Place:
    """A port on 127.0.0.1 where a backend listens, or refuses, or swallows every SYN."""

    def __init__(self, *, ephemeral: bool = False) -> None:
        self._sock = socket.socket()
        self._sock.setblocking(False)
        self._plugs: list[socket.socket] = []
        if ephemeral:
            self._sock.bind(("127.0.0.1", 0))
        else:
            self._bind_low()
        self.address = addresses.SocketAddress(*self._sock.getsockname())

    def listen(self) -> "Place":
        """Accept connections from now on."""
        self._sock.listen(1024)
        return self

    def refuse(self) -> "Place":
        """Answer every SYN with a reset, but keep the port."""
        self._sock.shutdown(socket.SHUT_RDWR)
        return self

    async def swallow(self) -> "Place":
        """Answer nothing: the accept queue has room for one, and that one is there."""
        self._sock.listen(0)
        plug = socket.socket()
        self._plugs.append(plug)
        plug.setblocking(False)
        plug.connect_ex(self.address)
        await until(self._is_full, "the accept queue is full")
        return self

    def wake(self) -> None:
        """End a `swallow`: the queue has room from now on, also for a SYN that is sent again."""
        self._discard()
        self._sock.listen(1024)

    def waiting(self) -> int:
        """Connections in the accept queue."""
        return self._queue()[0]

    async def accept(self) -> actor.Actor:
        """Accept the next connection; the harness that made this place does so in time."""
        sock, _ = await asyncio.get_running_loop().sock_accept(self._sock)
        return actor.Actor(sock, "the backend")

    def close(self) -> None:
        """Give the port back."""
        self._sock.close()
        for plug in self._plugs:
            plug.close()

    def _bind_low(self) -> None:
        for port in itertools.islice(_ports, 200):
            try:
                self._sock.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return
        raise AssertionError("200 ports in a row are taken")

    def _discard(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._sock.accept()[0].close()

    def _is_full(self) -> bool:
        length, limit = self._queue()
        return length > limit

    def _queue(self) -> tuple[int, int]:
        return accept_queue(self._sock)


@dataclasses.dataclass(frozen=True)
class Service:
    """One listener and what is behind it."""

    target: connection.Target
    listener: listener.Listener
    balancer: balancer.ServicePortBalancer | None

    @property
    def ended(self) -> dict[str, int]:
        """How many connections ended for which reason, without the zeros."""
        return {reason: n for reason, n in self.target.counters.ended.items() if n}

    @property
    def dial_failures(self) -> dict[str, int]:
        """How many dials failed for which reason."""
        return dict(self.target.counters.dial_failures)


class DataPath:
    """A data path under test, its penalty box and its kernel, which is open to view.

    `bugs` and `stalls` are how many of these a test provokes on purpose.
    """

    def __init__(self, limits: data_path.Limits | None, kernel: faulty.FaultyKernel) -> None:
        self.box = penalty.PenaltyBox()
        self.kernel = kernel
        self.data_path = data_path.DataPath(self.box, limits, kernel)
        self.services: list[Service] = []
        self.bugs = 0
        self.stalls = 0
        self._is_closed = False

    def views(self) -> Iterator[data_path.ConnectionView]:
        """Its connections."""
        return (view for view in self.data_path.connection_views() if view is not None)

    def serve(self, *places: Place, affinity_seconds: int | None = None, seed: int = 0) -> Service:
        """Balance over `places`, round-robin, with the data path's penalty box."""
        policy = forwarding.Policy(affinity_seconds=affinity_seconds)
        chooser = balancer.ServicePortBalancer(policy, self.box, random.Random(seed))
        chooser.update([place.address for place in places])
        return self.serve_by(chooser, chooser)

    def serve_by(
        self, picker: connection.Picker, chooser: balancer.ServicePortBalancer | None = None
    ) -> Service:
        """Serve with any picker."""
        target = connection.Target(
            names.ServicePortName(names.NamespacedName("test", f"service-{len(self.services)}")),
            picker,
        )
        opened = self.data_path.open(addresses.SocketAddress("127.0.0.1", 0), target)
        service = Service(target, opened, chooser)
        self.services.append(service)
        return service

    def legs(self, *, dialled: bool) -> list[faulty.FaultySocket]:
        """The open sockets towards the backends, or those towards the clients."""
        return [s for s in self.kernel.sockets.values() if s.is_dialled is dialled]

    @property
    def dials(self) -> int:
        """Dials that wait for their handshake."""
        return self.data_path._dialer.pending

    @property
    def lent_pipes(self) -> int:
        """Pipes in use."""
        return self.data_path._pipes.lent

    def held(self) -> list[object]:
        """Connections and dials in the poller's table."""
        return self._in_table(relay.Leg, dial.Dial)

    def _in_table(self, *kinds: type) -> list[object]:
        return [each for each in self.data_path._poller.handlers() if isinstance(each, kinds)]

    def is_quiet(self) -> bool:
        """Whether nothing of any connection is left."""
        return not (
            self.data_path.connections or self.dials or self.lent_pipes or self.held()
        ) and not any(service.target.counters.active for service in self.services)

    async def finish(self) -> None:
        """Require that everything was let go of, close, and require that nothing is left."""
        if self._is_closed:
            return
        self.kernel.relent()
        try:
            await until(self.is_quiet, "the data path lets go", _PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.describe()} are left") from None
        finally:
            self.close()

    def close(self) -> None:
        """Close the data path, in whatever state, and require that nothing is left."""
        self._is_closed = True
        for service in self.services:
            if service.balancer is not None:
                service.balancer.close()
        self.data_path.close()
        counters = self.data_path.counters
        assert self.bugs in {counters.bugs, ANY}, f"{counters.bugs} bugs were contained"
        assert counters.stalls_recovered == self.stalls, "connections stalled"
        assert not self.kernel.sockets, "sockets are open after close"
        left = self._in_table(relay.Leg, dial.Dial, listener.Listener, probe.Probe)
        assert not left, f"in the table after close: {left}"
        assert self.data_path.idle_pipes == 0, "pipes are open after close"

    def describe(self) -> str:
        """What is still there, for a failure's sentence."""
        return (
            f"{self.data_path.connections} connections, {self.dials} dials, "
            f"{self.lent_pipes} pipes, table {self.held()}"
        )


class Harness:
    """Makes data paths, places and actors for one test, and ends them all."""

    def __init__(self) -> None:
        self._paths: list[DataPath] = []
        self._places: list[Place] = []
        self._actors: list[actor.Actor] = []
        self._before = descriptors()
        self._tasks = asyncio.all_tasks()
        self._timers = _timers()

    def start(
        self, limits: data_path.Limits | None = None, kernel: faulty.FaultyKernel | None = None
    ) -> DataPath:
        """Make a data path; its kernel is honest unless one is given."""
        path = DataPath(limits, kernel or faulty.FaultyKernel())
        self._paths.append(path)
        return path

    def place(self, *, ephemeral: bool = False) -> Place:
        """A port that refuses until it is told to `listen`."""
        place = Place(ephemeral=ephemeral)
        self._places.append(place)
        return place

    def backend(self, *, ephemeral: bool = False) -> Place:
        """A port that listens."""
        return self.place(ephemeral=ephemeral).listen()

    async def black_hole(self) -> Place:
        """A port that swallows every SYN."""
        return await self.place().swallow()

    async def connect(
        self, service: Service | addresses.SocketAddress, *, rcvbuf: int | None = None
    ) -> actor.Actor:
        """Connect a client; an OSError is the caller's."""
        address = service.listener.address if isinstance(service, Service) else service
        sock = socket.socket()
        client = self.hold(actor.Actor(sock, "the client"))
        if rcvbuf is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        async with within("a client connects"):
            await asyncio.get_running_loop().sock_connect(sock, address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    async def accept(self, place: Place, seconds: float = PROMPT) -> actor.Actor:
        """Accept the data path's next connection to `place`."""
        async with within("the data path connects to the backend", seconds):
            return self.hold(await place.accept())

    async def pair(
        self, service: Service, place: Place, *, rcvbuf: int | None = None
    ) -> tuple[actor.Actor, actor.Actor]:
        """Both ends of a new connection: client and backend."""
        client = await self.connect(service, rcvbuf=rcvbuf)
        return client, await self.accept(place)

    def hold(self, end: actor.Actor) -> actor.Actor:
        """End `end` with the test."""
        self._actors.append(end)
        return end

    def end_all(self) -> None:
        """End every client and backend connection, and forget them (for tests with thousands)."""
        for end in self._actors:
            end.reset()
        self._actors.clear()

    async def finish(self) -> None:
        """End everything; AssertionError says what was left."""
        self.end_all()
        for place in self._places:
            place.close()
        async with contextlib.AsyncExitStack() as stack:
            for path in self._paths:
                stack.push_async_callback(path.finish)
        self._require_nothing_left()

    def _require_nothing_left(self) -> None:
        left = descriptors() - self._before
        assert not left, f"descriptors are left: {left}"
        current = asyncio.current_task()
        tasks = asyncio.all_tasks() - self._tasks - {current}
        assert not tasks, f"tasks are left: {tasks}"
        timers = _timers() - self._timers
        assert not timers, f"timers are left: {timers}"


def _timers() -> set[Any]:
    """The running loop's timers. It has no public list of them."""
    scheduled = getattr(asyncio.get_running_loop(), "_scheduled", ())
    return {timer for timer in scheduled if not timer.cancelled()}


class ProxyProcess:
    """`tests.datapath.rig.faulty_proxy` in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = process.pid
        assert process.stdout is not None
        self._stdout = process.stdout
        word, _, address = self._stdout.readline().strip().partition(" ")
        assert word == "ready", "the proxy did not start"
        host, _, port = address.rpartition(":")
        self.address = (host, int(port))

    def end(self) -> dict[str, int]:
        """Ask it to end; returns its counters."""
        self._process.send_signal(signal.SIGTERM)
        last = self._stdout.read().splitlines()[-1]
        counters: dict[str, int] = json.loads(last)
        return counters

    def kill(self) -> None:
        """End it as the kernel's out-of-memory killer would."""
        self._process.kill()


@contextlib.contextmanager
def proxy_process(backend: tuple[str, int], *options: str) -> Iterator[ProxyProcess]:
    """Run a proxy in front of `backend` in a process of its own; killed at the end."""
    command = [
        sys.executable,
        "-m",
        "tests.datapath.rig.faulty_proxy",
        "127.0.0.1:0",
        f"{backend[0]}:{backend[1]}",
        *options,
    ]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            yield ProxyProcess(process)
        finally:
            process.kill()


@contextlib.contextmanager
def open_files_limit(limit: int) -> Iterator[None]:
    """Change this process's soft RLIMIT_NOFILE for a block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
