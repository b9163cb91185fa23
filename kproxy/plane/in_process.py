"""The data plane of this process: joins balancers and the data path, and obeys messages.

Balancer and affinity state live here, with the sockets. What comes in is plain data
(`model.forwarding`), so that a data plane can also live in another process.
"""

import heapq
import itertools
import random
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from typing import Protocol

import structlog

from kproxy import events, metrics
from kproxy.balancer import affinity, balancer, penalty
from kproxy.datapath import data_path
from kproxy.datapath.tcp import connection, halfclose, listener
from kproxy.model import addresses, forwarding, names, steps

_SHOWN = 5
"""Endpoints that one line in the log names."""

_log = structlog.get_logger(__name__)


class DataPlane(Protocol):
    """Who carries out what the proxier found to be different."""

    def apply(self, message: forwarding.Message, /) -> None:
        """Carry out one message. Only `OpenFrontend` can fail: with OSError, as bind(2)."""

    def steps(self, message: forwarding.SetBackends, /) -> Iterator[None]:
        """`apply` for a message that may take long, in steps of less than a millisecond.

        All of them must be taken before the next message.
        """


class ServicePortState:
    """What the data plane holds of one service port. `Scope` keys a balancer each."""

    __slots__ = ("balancers", "counters", "listeners", "name", "targets")

    def __init__(
        self,
        name: names.ServicePortName,
        policy: forwarding.Policy,
        box: penalty.PenaltyBox,
        rng: random.Random,
        max_affinity_clients: int,
    ) -> None:
        self.name = name
        self.counters = metrics.ServicePortCounters(halfclose.REASONS)
        self.balancers = {
            scope: balancer.ServicePortBalancer(
                policy, box, rng, max_affinity_clients, on_barred=on_barred
            )
            for scope, on_barred in (
                (forwarding.Scope.CLUSTER, lambda barred: _report_barred(name, box, barred)),
                (forwarding.Scope.LOCAL, _is_reported),  # a part of the others
            )
        }
        self.targets = {
            scope: connection.Target(name, self.balancers[scope], self.counters)
            for scope in forwarding.Scope
        }
        self.listeners: dict[addresses.SocketAddress, listener.Listener] = {}

    @property
    def listen_drops(self) -> int:
        """Connection requests that the kernel dropped at the frontends, open and closed ones."""
        return self.counters.listen_drops + sum(each.drops for each in self.listeners.values())

    def is_used(self, backend: addresses.SocketAddress) -> bool:
        """Whether new connections go to `backend` without reservation.

        Not while it is in the penalty box: clients get there only if every other one is, too.
        """
        return any(each.is_free(backend) for each in self.balancers.values())


class InProcessPlane:
    """A data plane over one `data_path.DataPath`, which stays its maker's to close."""

    def __init__(
        self,
        path: data_path.DataPath,
        box: penalty.PenaltyBox,
        rng: random.Random,
        *,
        max_affinity_clients: int = affinity.DEFAULT_MAX_CLIENTS,
        feed: events.Feed | None = None,
    ) -> None:
        """`feed` is told what becomes of endpoints, frontends and service ports."""
        self._feed = feed or events.Feed()
        self._path = path
        self._box = box
        self._rng = rng
        self._max_affinity_clients = max_affinity_clients
        self._ports: dict[names.ServicePortName, ServicePortState] = {}
        self._listening: dict[addresses.SocketAddress, ServicePortState] = {}

    @property
    def box(self) -> penalty.PenaltyBox:
        """The penalty box, to read."""
        return self._box

    def port(self, name: names.ServicePortName) -> ServicePortState | None:
        """What is held of a service port, to read."""
        return self._ports.get(name)

    def apply(self, message: forwarding.Message) -> None:
        """Carry out one message. `OpenFrontend` raises OSError when the address cannot be bound."""
        match message:
            case forwarding.SetBackends():
                for _ in self.steps(message):
                    pass
            case forwarding.OpenFrontend(name, frontend, address):
                state = self._ports[name]
                target = state.targets[frontend.scope]
                try:
                    opened = state.listeners[address] = self._path.open(address, target)
                except OSError as error:
                    self._tell_failure(name, address, error)
                    raise
                self._listening[address] = state
                self._box.bar(opened.address, str(name))
                self._feed.record(events.FrontendOpened(time.monotonic(), str(name), address))
            case forwarding.CloseFrontend(address):
                state = self._listening.pop(address)
                closed = state.listeners.pop(address)
                self._path.shut(closed)
                self._box.unbar(closed.address)
                service = str(state.name)
                self._feed.record(events.FrontendClosed(time.monotonic(), service, address))
            case forwarding.Forget(name):
                state = self._ports.pop(name)
                for each in state.balancers.values():
                    each.close()
                self._tell_service(name, "removed")

    def bar(self, place: addresses.SocketAddress, owner: str) -> None:
        """kproxy itself listens on `place`, as `owner`, which is no service port: no endpoint."""
        self._box.bar(place, owner)

    def steps(self, message: forwarding.SetBackends) -> Iterator[None]:
        """Balance over these backends, in steps."""
        state = self._ports.get(message.name)
        if state is not None and state.balancers[forwarding.Scope.CLUSTER].policy != message.policy:
            self._tell_service(message.name, "changed")
        if state is None:
            self._tell_service(message.name, "added")
            state = ServicePortState(
                message.name, message.policy, self._box, self._rng, self._max_affinity_clients
            )
            self._ports[message.name] = state
        before = yield from _united(*(each.members for each in state.balancers.values()))
        for scope, backends in (
            (forwarding.Scope.CLUSTER, message.cluster),
            (forwarding.Scope.LOCAL, message.local),
        ):
            state.balancers[scope].configure(message.policy)
            yield from state.balancers[scope].update_steps(backends)
        wanted = yield from _united(message.cluster, message.local)
        yield from self._tell_endpoints(message.name, before, wanted)
        state.counters.keep_endpoints(wanted)

    def _tell_failure(
        self, name: names.ServicePortName, address: addresses.SocketAddress, error: OSError
    ) -> None:
        reason = error.strerror or str(error)
        self._feed.record(events.FrontendFailed(time.monotonic(), str(name), address, reason))

    def _tell_service(self, name: names.ServicePortName, change: str) -> None:
        self._feed.record(events.ServiceChanged(time.monotonic(), str(name), change))

    def _tell_endpoints(
        self,
        name: names.ServicePortName,
        before: Collection[addresses.SocketAddress],
        now: Collection[addresses.SocketAddress],
    ) -> Iterator[None]:
        added, added_count = yield from _first_without(now, before)
        removed, removed_count = yield from _first_without(before, now)
        if added or removed:
            left_out = added_count + removed_count - len(added) - len(removed)
            self._feed.record(
                events.EndpointsChanged(
                    time.monotonic(), str(name), added, removed, len(now), left_out or None
                )
            )


def _united(
    *several: Iterable[addresses.SocketAddress],
) -> Generator[None, None, set[addresses.SocketAddress]]:
    """All of these, in steps."""
    made: set[addresses.SocketAddress] = set()
    for run in steps.runs(itertools.chain(*several)):
        made.update(run)
        yield
    return made


def _first_without(
    backends: Iterable[addresses.SocketAddress], excluded: Collection[addresses.SocketAddress]
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


def _report_barred(
    name: names.ServicePortName, box: penalty.PenaltyBox, barred: Sequence[addresses.SocketAddress]
) -> None:
    """Say which endpoints of a service port are left out, and whose addresses they are."""
    _log.warning(
        "endpoint is one of kproxy's own addresses and gets no connections: "
        "they would come back to the proxy",
        service=str(name),
        endpoints=[f"{each} of {box.owner(each)}" for each in barred[:_SHOWN]],
        **({"more": len(barred) - _SHOWN} if len(barred) > _SHOWN else {}),
    )


def _is_reported(_barred: Sequence[addresses.SocketAddress]) -> None:
    """It has been said of a larger set."""
