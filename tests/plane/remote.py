"""A data plane in another process, reached over a socketpair: proof that the seam is one.

Nothing but `wire` frames goes back and forth. `pytest --plane process` runs suites on it.
"""

import asyncio
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from kproxy import config, errors, events, parts, turns
from kproxy.balancer import affinity
from kproxy.datapath import data_path
from kproxy.model import addresses, forwarding, names
from kproxy.plane import plane, snapshots, wire

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
"""Seconds within which the other process starts and ends."""


class RemotePlane:
    """Satisfies `plane.DataPlane`. Owns the other process."""

    def __init__(
        self,
        limits: data_path.Limits | None = None,
        *,
        max_affinity_clients: int = affinity.DEFAULT_MAX_CLIENTS,
        feed: events.Feed | None = None,
    ) -> None:
        """Returns once the other process works. Raises ConfigError as `InProcessPlane` does."""
        self._feed = feed or events.Feed()
        self._sock, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.plane.host", str(theirs.fileno())),
                    msgspec.json.encode(limits or data_path.Limits()).decode(),
                    str(max_affinity_clients),
                ],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._loop = asyncio.get_running_loop()
        self._frames = wire.Frames()
        self._unsent = bytearray()
        self._descriptors: list[int] = []
        self._hear: Callable[[forwarding.Report], None] = lambda _: None
        self._numbers = itertools.count()
        self._looks: dict[int, asyncio.Future[None]] = {}
        self._drains: list[asyncio.Future[int]] = []
        self._ended = asyncio.Event()
        self._ports: dict[names.ServicePortName, wire.SeenPort] = {}
        self._endpoints: dict[
            names.ServicePortName, dict[addresses.SocketAddress, snapshots.Endpoint]
        ] = {}
        self._bindings: dict[names.ServicePortName, tuple[snapshots.Binding, ...]] = {}
        self._connections: list[data_path.ConnectionView] = []
        self._incoming: list[Any] = []
        self._parts: dict[int, plane.Part] = {}
        self._started = self._start()
        self._totals = self._started.totals
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock, self._read)
        self._feed.follow(lambda wanted: self._send(wire.WantFacts(wanted is not None)))

    def _start(self) -> wire.Started:
        self._sock.settimeout(PATIENCE)
        while data := self._sock.recv(1 << 16):
            for message in self._frames.feed(data):
                match message:
                    case wire.Started():
                        return message
                    case wire.Refused(reason):
                        self.close()
                        raise errors.ConfigError(reason)
        raise errors.KproxyError("the data plane did not start")

    # Down

    def subscribe(self, hear: Callable[[forwarding.Report], None]) -> None:
        """Reports come when the loop turns."""
        self._hear = hear

    def send(self, message: forwarding.Message) -> None:
        """Send it; it is carried out later."""
        self._send(message)

    def send_steps(self, message: forwarding.SetBackends) -> Iterator[None]:
        """`send`, in one step."""
        self._send(message)
        yield

    @property
    def protocols(self) -> frozenset[names.Protocol]:
        """As the other process reported at the start."""
        return self._started.protocols

    @property
    def max_listeners(self) -> int:
        """As the other process reported at the start."""
        return self._started.max_listeners

    async def wait_ended(self) -> NoReturn:
        """See `plane.DataPlane`."""
        await self._ended.wait()
        raise self._failure()

    def _failure(self) -> errors.KproxyError:
        return errors.KproxyError(f"the data plane (process {self._process.pid}) has ended")

    def _check(self) -> None:
        if self._ended.is_set():
            raise self._failure()

    def share(self, name: str, descriptor: int) -> None:
        """Hand a duplicate over beside the message."""
        self._descriptors.append(os.dup(descriptor))
        self._send(wire.Share(name))

    async def drain(self, grace: float) -> int:
        """See `plane.DataPlane`."""
        return await self._ask_to_end(wire.Drain(grace))

    async def abort(self) -> int:
        """See `plane.DataPlane`."""
        return await self._ask_to_end(wire.Abort())

    async def _ask_to_end(self, message: wire.Drain | wire.Abort) -> int:
        self._check()
        answer = self._loop.create_future()
        self._drains.append(answer)
        self._send(message)
        return int(await answer)

    def close(self) -> None:
        """The other process ends when the connection does."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self._give_up_descriptors()
            self._process.wait(PATIENCE)

    def _send(self, message: Any) -> None:
        if self._sock.fileno() < 0:
            return
        self._unsent += wire.encode(message)
        self._write()

    def _write(self) -> None:
        try:
            while self._unsent:
                sent = socket.send_fds(self._sock, [self._unsent], self._descriptors)
                del self._unsent[:sent]
                self._give_up_descriptors()
        except BlockingIOError:
            self._loop.add_writer(self._sock, self._write)
        except OSError:
            self._unsent.clear()
            self._give_up_descriptors()
        else:
            self._loop.remove_writer(self._sock)

    def _give_up_descriptors(self) -> None:
        for each in self._descriptors:
            os.close(each)
        self._descriptors.clear()

    # Up

    def _read(self) -> None:
        try:
            data = self._sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
        for message in self._frames.feed(data):
            self._take(message)

    def _end(self) -> None:
        """The other process has ended: so does every question to it."""
        self._loop.remove_reader(self._sock)
        self._ended.set()
        waiting: list[asyncio.Future[Any]] = [*self._looks.values(), *self._drains]
        for each in waiting:
            if not each.done():
                each.set_exception(self._failure())

    def _take(self, message: Any) -> None:
        match message:
            case forwarding.Opened() | forwarding.OpenFailed():
                self._hear(message)
            case wire.FactSeen(_, _, is_kept):
                fact = wire.unpack(message)
                (self._feed.record if is_kept else self._feed.publish)(fact)
            case wire.Looked(number, totals):
                self._totals = totals
                self._show(self._parts.pop(number))
                look = self._looks.pop(number)
                if not look.done():
                    look.set_result(None)
            case wire.Drained(reset):
                for end in self._drains:
                    if not end.done():
                        end.set_result(reset)
                self._drains.clear()
            case _:
                self._incoming.append(message)

    def _show(self, part: plane.Part) -> None:
        """All of a look is there: let it be read."""
        seen, self._incoming = self._incoming, []
        if plane.Part.PORTS in part:
            ports = [each for each in seen if isinstance(each, wire.SeenPort)]
            self._ports = {each.name: each for each in ports}
            self._endpoints = {each.name: dict(each.endpoints) for each in ports}
        if plane.Part.AFFINITY in part:
            found = (each for each in seen if isinstance(each, wire.SeenBindings))
            self._bindings = {each.name: each.bindings for each in found}
        if plane.Part.CONNECTIONS in part:
            self._connections = [
                view
                for each in seen
                if isinstance(each, wire.SeenConnections)
                for view in each.connections
            ]

    # Read

    async def refresh(self, part: plane.Part, _shared: turns.Turns) -> None:
        """Ask the other process."""
        self._check()
        number = next(self._numbers)
        waiting = self._looks[number] = self._loop.create_future()
        self._parts[number] = part
        self._send(wire.Look(number, part.value))
        await waiting

    def has_events(self) -> bool:
        """They are in another process."""
        return False

    def totals(self) -> snapshots.Totals:
        """See `plane.Readable`."""
        return self._totals

    def service_port(self, name: names.ServicePortName) -> snapshots.ServicePort | None:
        """See `plane.Readable`."""
        seen = self._ports.get(name)
        return seen.happened if seen is not None else None

    def endpoint(
        self, name: names.ServicePortName, backend: addresses.SocketAddress
    ) -> snapshots.Endpoint:
        """See `plane.Readable`. Nothing is known of an endpoint that is not balanced over."""
        return self._endpoints.get(name, {}).get(backend, snapshots.Endpoint())

    def affinity(self, name: names.ServicePortName, limit: int) -> Sequence[snapshots.Binding]:
        """See `plane.Readable`."""
        return self._bindings.get(name, ())[: limit * len(forwarding.Scope)]

    def coming(self, name: names.ServicePortName, client: str) -> Sequence[snapshots.Coming]:
        """Not known here: the other process is not asked."""
        del name, client
        return ()

    def connections(
        self, is_asked_for: Callable[[names.ServicePortName], bool]
    ) -> Iterable[data_path.ConnectionView]:
        """See `plane.Readable`."""
        return (each for each in self._connections if is_asked_for(each.service))


def make_plane(cfg: config.Config, feed: events.Feed) -> plane.DataPlane:
    """As `parts.make_plane`, in another process."""
    return RemotePlane(parts.limits(cfg), max_affinity_clients=cfg.max_affinity_clients, feed=feed)
