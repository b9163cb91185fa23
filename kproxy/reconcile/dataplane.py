"""The data plane of this process: joins balancers and the data path, and obeys messages.

Balancer and affinity state live here, with the sockets. What comes in is plain data
(`model.forwarding`), so that a data plane can also live in another process.
"""

import random
from typing import Protocol

from kproxy import metrics
from kproxy.balancer import affinity, balancer, penalty
from kproxy.datapath import connection, halfclose, listener, worker
from kproxy.model import endpoints, forwarding, names


class DataPlane(Protocol):
    """Who carries out what the proxier found to be different."""

    def apply(self, message: forwarding.Message, /) -> None:
        """Carry out one message. Only `OpenFrontend` can fail: with OSError, as bind(2)."""


class ServicePortState:
    """What the data plane holds of one service port. `Scope` keys a balancer each."""

    __slots__ = ("balancers", "counters", "listeners", "targets")

    def __init__(
        self,
        name: names.ServicePortName,
        policy: forwarding.Policy,
        box: penalty.PenaltyBox,
        rng: random.Random,
        max_affinity_clients: int,
    ) -> None:
        self.counters = metrics.ServicePortCounters(halfclose.REASONS)
        self.balancers = {
            scope: balancer.ServicePortBalancer(policy, box, rng, max_affinity_clients)
            for scope in forwarding.Scope
        }
        self.targets = {
            scope: connection.Target(str(name), self.balancers[scope], self.counters)
            for scope in forwarding.Scope
        }
        self.listeners: dict[endpoints.Backend, listener.Listener] = {}

    @property
    def listen_drops(self) -> int:
        """Connection requests that the kernel dropped at the frontends, open and closed ones."""
        return self.counters.listen_drops + sum(each.drops for each in self.listeners.values())


class WorkerDataPlane:
    """A data plane over one `worker.Worker`, which stays its maker's to close."""

    def __init__(
        self,
        data_path: worker.Worker,
        box: penalty.PenaltyBox,
        rng: random.Random,
        *,
        max_affinity_clients: int = affinity.DEFAULT_MAX_CLIENTS,
    ) -> None:
        self._worker = data_path
        self._box = box
        self._rng = rng
        self._max_affinity_clients = max_affinity_clients
        self._ports: dict[names.ServicePortName, ServicePortState] = {}
        self._listening: dict[endpoints.Backend, ServicePortState] = {}

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
                self._set_backends(message)
            case forwarding.OpenFrontend(name, frontend, address):
                state = self._ports[name]
                target = state.targets[frontend.scope]
                state.listeners[address] = self._worker.open(address, target)
                self._listening[address] = state
            case forwarding.CloseFrontend(address):
                self._worker.shut(self._listening.pop(address).listeners.pop(address))
            case forwarding.Forget(name):
                state = self._ports.pop(name)
                for each in state.balancers.values():
                    each.close()

    def _set_backends(self, message: forwarding.SetBackends) -> None:
        state = self._ports.get(message.name)
        if state is None:
            state = ServicePortState(
                message.name, message.policy, self._box, self._rng, self._max_affinity_clients
            )
            self._ports[message.name] = state
        for scope, backends in (
            (forwarding.Scope.CLUSTER, message.cluster),
            (forwarding.Scope.LOCAL, message.local),
        ):
            state.balancers[scope].configure(message.policy)
            state.balancers[scope].update(backends)
