"""The data plane of this process: joins balancers and the data path, and obeys messages.

Balancer and affinity state live here, with the sockets. What comes in is plain data
(`model.forwarding`), so that a data plane can also live in another process.
"""

import random
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import structlog

from kproxy import events, metrics
from kproxy.balancer import affinity, balancer, penalty
from kproxy.datapath import data_path
from kproxy.datapath.tcp import connection, halfclose, listener
from kproxy.model import addresses, forwarding, names

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
                if self._feed.active:
                    self._feed.publish(events.FrontendOpened(time.monotonic(), str(name), address))
            case forwarding.CloseFrontend(address):
                state = self._listening.pop(address)
                closed = state.listeners.pop(address)
                self._path.shut(closed)
                self._box.unbar(closed.address)
                if self._feed.active:
                    service = str(state.name)
                    self._feed.publish(events.FrontendClosed(time.monotonic(), service, address))
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
        before = (
            {backend for each in state.balancers.values() for backend in each.backends}
            if self._feed.active
            else set()
        )
        yield
        for scope, backends in (
            (forwarding.Scope.CLUSTER, message.cluster),
            (forwarding.Scope.LOCAL, message.local),
        ):
            state.balancers[scope].configure(message.policy)
            yield from state.balancers[scope].update_steps(backends)
        wanted = {*message.cluster, *message.local}
        yield
        if self._feed.active:
            self._tell_endpoints(message.name, before, wanted)
            yield
        state.counters.keep_endpoints(wanted)

    def _tell_failure(
        self, name: names.ServicePortName, address: addresses.SocketAddress, error: OSError
    ) -> None:
        if self._feed.active:
            reason = error.strerror or str(error)
            self._feed.publish(events.FrontendFailed(time.monotonic(), str(name), address, reason))

    def _tell_service(self, name: names.ServicePortName, change: str) -> None:
        if self._feed.active:
            self._feed.publish(events.ServiceChanged(time.monotonic(), str(name), change))

    def _tell_endpoints(
        self,
        name: names.ServicePortName,
        before: Collection[addresses.SocketAddress],
        now: Collection[addresses.SocketAddress],
    ) -> None:
        added = tuple(sorted(each for each in now if each not in before))
        removed = tuple(sorted(each for each in before if each not in now))
        if added or removed:
            self._feed.publish(
                events.EndpointsChanged(time.monotonic(), str(name), added, removed, len(now))
            )


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
