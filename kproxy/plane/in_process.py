"""The data plane of this process: joins penalty box, balancers and the data path.

Balancer and affinity state live here, with the sockets. What comes in and goes out is plain data:
see `plane.DataPlane`, which this satisfies.
"""

import asyncio
import heapq
import itertools
import random
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NoReturn

import structlog

from kproxy import events, turns
from kproxy.balancer import affinity, near, penalty
from kproxy.datapath import data_path, syscalls
from kproxy.datapath.tcp import connection, halfclose
from kproxy.datapath.tcp.accept import shared_listener
from kproxy.datapath.udp import endings
from kproxy.model import addresses, forwarding, names, steps
from kproxy.plane import plane, port_state, resting, snapshots

PROTOCOLS = frozenset({names.Protocol.TCP, names.Protocol.UDP})
"""The transport protocols that the data path forwards."""

_FEW = 100
"""Backends that need no steps: some 10 us."""

_log = structlog.get_logger(__name__)


class InProcessPlane:
    """A data plane on the running event loop. Satisfies `plane.DataPlane`.

    Raises ConfigError when the open files do not carry `limits`. Owns its penalty box and its
    data path, with all their sockets.
    """

    def __init__(
        self,
        limits: data_path.Limits | None = None,
        rng: random.Random | None = None,
        *,
        max_affinity_clients: int = affinity.DEFAULT_MAX_CLIENTS,
        feed: events.Feed | None = None,
    ) -> None:
        """What becomes of connections, endpoints, frontends and service ports goes to `feed`."""
        self._feed = feed or events.Feed()
        # A server of UDP may be away while that of TCP on the same port is well, and the reverse.
        self._box = penalty.PenaltyBox(syscalls.is_local, self._record_penalty)
        self._udp_box = penalty.PenaltyBox(syscalls.is_local, self._record_penalty)
        self._path = data_path.DataPath(self._box, limits, udp_box=self._udp_box)
        self._path.publish_to(self._feed)
        self._near = near.Near()
        self._hear: Callable[[forwarding.Report], None] = lambda _: None
        common = rng or random.Random(), max_affinity_clients, self._near
        self._around = {
            names.Protocol.TCP: port_state.Surroundings(self._box, halfclose.REASONS, *common),
            names.Protocol.UDP: port_state.Surroundings(self._udp_box, endings.REASONS, *common),
        }
        self._ports: dict[names.ServicePortName, resting.ServicePort] = {}
        self._listening: dict[forwarding.PortalAddress, _Frontend] = {}

    @property
    def protocols(self) -> frozenset[names.Protocol]:
        """See `plane.DataPlane`."""
        return PROTOCOLS

    @property
    def max_listeners(self) -> int:
        """See `plane.DataPlane`."""
        return self._path.max_listeners

    def share(self, name: str, descriptor: int) -> None:
        """See `plane.DataPlane`."""
        self._path.share(name, descriptor)

    async def wait_ended(self) -> NoReturn:
        """Waits for ever: this data plane ends with its process."""
        while True:
            await asyncio.get_running_loop().create_future()

    async def drain(self, grace: float) -> int:
        """See `plane.DataPlane`."""
        return await self._path.drain(grace)

    async def abort(self) -> int:
        """See `plane.DataPlane`."""
        return self._path.abort_all()

    def close(self) -> None:
        """See `plane.DataPlane`."""
        self._path.close()

    async def refresh(self, part: plane.Part, shared: turns.Turns) -> None:
        """Only bytes have to be counted: everything else is read as it stands."""
        if plane.Part.BYTES in part:
            async for _ in shared.batches(self._path.count_bytes()):
                pass

    def has_events(self) -> bool:
        """See `plane.Readable`."""
        return self._path.has_events

    def totals(self) -> snapshots.Totals:
        """See `plane.Readable`."""
        counters = self._path.counters
        return snapshots.Totals(
            connections=self._path.connections,
            max_connections=self._path.max_connections,
            flows=self._path.flows,
            max_flows=self._path.max_flows,
            penalized=len(self._box) + len(self._udp_box),
            counters={name: getattr(counters, name) for name in counters.__slots__},
        )

    def service_port(self, name: names.ServicePortName) -> snapshots.ServicePort | None:
        """See `plane.Readable`."""
        port = self._ports.get(name)
        return port.snapshot() if port is not None else None

    def endpoint(
        self, name: names.ServicePortName, backend: addresses.SocketAddress
    ) -> snapshots.Endpoint:
        """See `plane.Readable`."""
        port = self._ports.get(name)
        counted = None
        if port is not None and not port.rests:
            counted = port.state.counters.endpoints.get(backend)
        box = self._box_of(name)
        return snapshots.Endpoint(
            total=counted.total if counted else 0,
            active=counted.active if counted else 0,
            dial_failures=counted.dial_failures if counted else 0,
            is_used=port is not None and port.is_used(backend),
            penalized_until=box.until(backend),
            own_address_of=box.owner(backend),
        )

    def service_ports(self) -> tuple[names.ServicePortName, ...]:
        """The service ports that are known."""
        return tuple(self._ports)

    def backends(self, name: names.ServicePortName) -> frozenset[addresses.SocketAddress]:
        """What a service port is balanced over, and what its connections go to still."""
        state = self._ports[name].state
        counted = (addresses.SocketAddress(*each) for each in state.counters.endpoints)
        return frozenset(counted).union(*(each.members for each in state.balancers.values()))

    def affinity(self, name: names.ServicePortName, limit: int) -> Iterator[snapshots.Binding]:
        """See `plane.Readable`. Each is as it stands when its turn comes."""
        port, now = self._ports.get(name), time.monotonic()
        state = port.state if port is not None and not port.rests else None
        sides = tuple(state.balancers.items()) if state is not None else ()
        for (scope, _), balanced in sides:
            if balanced.affinity_table is not None:
                for each in balanced.affinity_table.bindings(now, limit):
                    yield snapshots.Binding(
                        scope=scope,
                        client=each.client,
                        backend=each.backend,
                        seconds_left=each.seconds_left,
                    )

    def coming(self, name: names.ServicePortName, client: str) -> list[snapshots.Coming]:
        """See `plane.Readable`."""
        port, now = self._ports.get(name), time.monotonic()
        made = []
        for (scope, family), balanced in port.state.balancers.items() if port is not None else ():
            backend, seconds_left = balanced.peek(client, now)
            made.append(
                snapshots.Coming(
                    scope=scope, family=family, backend=backend, seconds_left=seconds_left
                )
            )
        return made

    def connections(
        self, is_asked_for: Callable[[names.ServicePortName], bool] = lambda _: True
    ) -> Iterator[data_path.ConnectionView | None]:
        """See `plane.Readable`. Each is as it stands when its turn comes."""
        return self._path.connection_views(is_asked_for)

    @property
    def box(self) -> penalty.PenaltyBox:
        """The penalty box, for tests of this data plane."""
        return self._box

    def port(self, name: names.ServicePortName) -> port_state.ServicePortState | None:
        """What serves the clients of a service port, for tests of this data plane."""
        port = self._ports.get(name)
        return port.state if port is not None else None

    def subscribe(self, hear: Callable[[forwarding.Report], None]) -> None:
        """See `plane.Forwarder`. Reports come while `send` runs."""
        self._hear = hear

    def send(self, message: forwarding.Message) -> None:
        """Carry out one message at once."""
        match message:
            case forwarding.SetBackends():
                for _ in self.send_steps(message):
                    pass
            case forwarding.OpenFrontend():
                self._open(message)
            case forwarding.SetNear(networks):
                self._near.set(networks)
                self._path.note_change()
            case forwarding.Admit(address, admitted) if address in self._listening:
                self._admit(address, admitted)
            case forwarding.CloseFrontend(address) if address in self._listening:
                self._close(address)
            case forwarding.Forget(name):
                port = self._ports.pop(name)
                port.close()
                if not port.rests:
                    self._path.lifetimes.part(port.state.terms)
                self._record_service_change(port, "removed")
            case forwarding.Bar(address, owner):
                self._box.bar(address, owner)
                self._udp_box.bar(address, owner)

    def send_steps(self, message: forwarding.SetBackends) -> Iterator[None]:
        """Balance over these backends, in steps."""
        name, policy = message.name, message.policy
        port = self._ports.get(name)
        if port is None:
            port = resting.ServicePort(name, self._around[name.protocol])
            self._ports[name] = port
            self._record_service_change(port, "added")
        elif port.message.policy != policy:
            self._record_service_change(port, "changed")
        before: AbstractSet[addresses.SocketAddress] = frozenset()
        if port.message.pools:
            before = yield from _united([pool.backends for pool in port.message.pools])
        wanted = yield from _united([pool.backends for pool in message.pools])
        if not port.may_rest(message, before, wanted):
            yield from port.update_steps(message)
        if name.protocol is names.Protocol.UDP:
            self._path.note_change()
        if not port.rests:
            present = wanted
            if policy.lifetime.is_limited and message.spared:
                present = yield from _united([wanted, message.spared])
            self._path.lifetimes.follow(port.state.terms, policy.lifetime, present)
            port.state.counters.keep_endpoints(wanted)
        yield from self._record_endpoints_change(port, before, wanted)

    def _box_of(self, name: names.ServicePortName) -> penalty.PenaltyBox:
        """The penalty box for the endpoints of a service port."""
        return self._udp_box if name.protocol is names.Protocol.UDP else self._box

    def _record_penalty(self, backend: addresses.SocketAddress, is_boxed: bool) -> None:  # noqa: FBT001
        fact = events.EndpointBoxed if is_boxed else events.EndpointReleased
        self._feed.record(fact(time.monotonic(), backend))

    def _open(self, message: forwarding.OpenFrontend) -> None:
        """Listen, and report what became of it."""
        address = message.address
        opened = _Frontend(self._ports[message.name], message.frontend, address)
        text = opened.port.text
        try:
            self._listen(opened, message)
        except OSError as error:
            reason, where = error.strerror or str(error), address.socket_address
            self._feed.record(events.FrontendFailed(time.monotonic(), text, where, reason))
            self._hear(forwarding.OpenFailed(address, reason))
            return
        self._listening[address] = opened
        where = address.socket_address
        self._box_of(message.name).bar(opened.listener.address, text)
        self._feed.record(events.FrontendOpened(time.monotonic(), text, where))
        self._hear(forwarding.Opened(address))

    def _listen(self, opened: "_Frontend", message: forwarding.OpenFrontend) -> None:
        """Open what a frontend's protocol needs. Raises OSError."""
        listen_on, address, frontend = message.listen_on, message.address, message.frontend
        if isinstance(listen_on, forwarding.SharedListener):
            opened.listener = self._path.open_shared(listen_on, opened)
            return
        state = opened.port.state
        target: port_state.Target
        listener: port_state.Listener
        if address.protocol is names.Protocol.UDP:
            target = state.datagram_target(frontend)
            listener = self._path.open_datagrams(listen_on, target, message.admitted)
        else:
            target = state.target(frontend)
            listener = self._path.open(listen_on, target, message.admitted)
        state.register(address, frontend, target)
        opened.listener = state.listeners[address] = listener

    def _close(self, address: forwarding.PortalAddress) -> None:
        """Listen no more."""
        closed = self._listening.pop(address)
        port = closed.port
        if not port.rests:
            port.state.listeners.pop(address, None)
            port.state.targets.pop(address, None)
        self._path.shut(closed.listener)
        self._box_of(port.name).unbar(closed.listener.address)
        self._feed.record(
            events.FrontendClosed(time.monotonic(), port.text, address.socket_address)
        )

    def _admit(self, address: forwarding.PortalAddress, admitted: forwarding.Admission) -> None:
        """Change which clients an open frontend admits: none if the kernel cannot filter."""
        listener = self._listening[address].listener
        try:
            listener.admit(admitted)
        except OSError as error:
            _log.error(
                "cannot filter clients, dropping all: raise the sysctl net.core.optmem_max, "
                "and close and open the frontend",
                address=str(address),
                reason=error.strerror or str(error),
            )
            listener.admit(())

    def _record_service_change(self, port: resting.ServicePort, change: str) -> None:
        self._feed.record(events.ServiceChanged(time.monotonic(), port.text, change))

    def _record_endpoints_change(
        self,
        port: resting.ServicePort,
        before: AbstractSet[addresses.SocketAddress],
        now: AbstractSet[addresses.SocketAddress],
    ) -> Iterator[None]:
        if len(before) + len(now) <= _FEW:
            new, gone = sorted(now - before), sorted(before - now)
            added, added_count = tuple(new[: events.NAMED]), len(new)
            removed, removed_count = tuple(gone[: events.NAMED]), len(gone)
        else:
            added, added_count = yield from _first_without(now, before)
            removed, removed_count = yield from _first_without(before, now)
        if added or removed:
            left_out = added_count + removed_count - len(added) - len(removed)
            self._feed.record(
                events.EndpointsChanged(
                    time.monotonic(), port.text, added, removed, len(now), left_out or None
                )
            )


class _Frontend:
    """An open frontend of a service port."""

    __slots__ = ("_address", "_frontend", "listener", "port")

    listener: port_state.Listener | shared_listener.Place

    def __init__(
        self,
        port: resting.ServicePort,
        frontend: forwarding.Frontend,
        address: forwarding.PortalAddress,
    ) -> None:
        self.port = port
        self._frontend = frontend
        self._address = address

    def __call__(self) -> connection.Target:
        """Where its clients go, for the first one that comes by a shared listener."""
        state = self.port.state
        target = state.target(self._frontend)
        state.register(self._address, self._frontend, target)
        return target


def _united(
    several: Sequence[Collection[addresses.SocketAddress]],
) -> Generator[None, None, set[addresses.SocketAddress]]:
    """All of these, in steps."""
    made: set[addresses.SocketAddress] = set()
    if sum(map(len, several)) <= _FEW:
        return made.union(*several)
    for run in steps.runs(itertools.chain(*several)):
        made.update(run)
        yield
    return made


def _first_without(
    backends: Collection[addresses.SocketAddress], excluded: Collection[addresses.SocketAddress]
) -> Generator[None, None, tuple[tuple[addresses.SocketAddress, ...], int]]:
    """Those that are not excluded: the first to be named in a fact, and how many. In steps."""
    first: list[addresses.SocketAddress] = []
    count = 0
    for run in steps.runs(backends):
        found = [each for each in run if each not in excluded]
        count += len(found)
        first = heapq.nsmallest(events.NAMED, (*first, *found))
        yield
    return tuple(first), count
