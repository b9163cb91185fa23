"""What serves the clients of one service port."""

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import structlog

from kproxy import metrics
from kproxy.balancer import balancer, loads, near, penalty, refusing, selecting
from kproxy.datapath import proxy_protocol
from kproxy.datapath.tcp import connection
from kproxy.datapath.tcp.accept import listener
from kproxy.datapath.udp import front, turned_away
from kproxy.datapath.udp import target as udp_target
from kproxy.model import addresses, forwarding, names
from kproxy.plane import snapshots

Listener: TypeAlias = listener.Listener | front.Front
"""An open frontend with a socket of its own."""

Picker: TypeAlias = balancer.ServicePortBalancer | near.NearPicker | refusing.RefusingPicker

Target: TypeAlias = connection.Target | udp_target.Target

_Side: TypeAlias = tuple[forwarding.Scope, addresses.Family]

_SHOWN = 5
"""Endpoints that one line in the log names."""

_log = structlog.get_logger(__name__)


class Surroundings(NamedTuple):
    """What the service ports of one protocol share in a data plane."""

    box: penalty.PenaltyBox
    reasons: Sequence[str]
    """Those for which connections end, or flows."""
    rng: random.Random
    max_affinity_clients: int
    near: near.Near


class ServicePortState:
    """The counters of one service port, and a balancer for each scope and family."""

    __slots__ = (
        "_around",
        "_refused",
        "balancers",
        "counters",
        "listeners",
        "loads",
        "name",
        "policy",
        "targets",
        "terms",
    )

    def __init__(
        self,
        name: names.ServicePortName,
        text: str,
        policy: forwarding.Policy,
        around: Surroundings,
    ) -> None:
        """`text` is the name, as logs and facts show it."""
        self._around = around
        self.name = name
        self.policy = policy
        self.counters = metrics.ServicePortCounters(around.reasons)
        self.balancers: dict[_Side, balancer.ServicePortBalancer] = {}
        self.listeners: dict[forwarding.PortalAddress, Listener] = {}
        """Its open listeners that no other service port shares."""
        self.targets: dict[forwarding.PortalAddress, tuple[forwarding.Frontend, Target]] = {}
        """Where the clients of a Gateway's open frontends go: some of them are turned away."""
        self._refused: dict[_Side, forwarding.Pool] = {}
        self.loads = loads.Loads()
        self.terms = connection.Terms(text)
        self._follow_policy(policy)

    def _make(self, scope: forwarding.Scope) -> balancer.ServicePortBalancer:
        around = self._around
        report: Callable[[Sequence[addresses.SocketAddress]], None] = _report_nothing
        if scope is forwarding.Scope.CLUSTER:  # the local ones are a part of these
            report = functools.partial(_report_barred, self.name, around.box)
        return balancer.ServicePortBalancer(
            self.policy,
            around.box,
            around.rng,
            around.max_affinity_clients,
            on_barred=report,
            counted=self.loads,
        )

    def balancer(
        self, scope: forwarding.Scope, family: addresses.Family
    ) -> balancer.ServicePortBalancer:
        """The balancer of one scope and family, which may be without backends."""
        found = self.balancers.get((scope, family))
        if found is None:
            found = self.balancers[scope, family] = self._make(scope)
        return found

    def picker(self, frontend: forwarding.Frontend) -> Picker:
        """What chooses backends for the clients of a frontend."""
        balanced = self.balancer(frontend.scope, frontend.family)
        refusing_pool = self._refused.get((frontend.scope, frontend.family))
        if refusing_pool is not None:
            return refusing.RefusingPicker(balanced, refusing_pool.refused, refusing_pool.total)
        if frontend.scope is forwarding.Scope.LOCAL and frontend.is_external:
            everywhere = self.balancer(forwarding.Scope.CLUSTER, frontend.family)
            return near.NearPicker(self._around.near, frontend.address, everywhere, balanced)
        return balanced

    def target(self, frontend: forwarding.Frontend) -> connection.Target:
        """Where the TCP clients of a frontend go."""
        return connection.Target(self.name, self.picker(frontend), self.counters, self.terms)

    def datagram_target(self, frontend: forwarding.Frontend) -> udp_target.Target:
        """Where the datagrams of a frontend go."""
        return udp_target.Target(self.name, self.picker(frontend), self.counters, self.terms)

    def register(
        self, address: forwarding.PortalAddress, frontend: forwarding.Frontend, target: Target
    ) -> None:
        """A Gateway's frontend is open: its `target` follows what is turned away."""
        if not self.name.service.is_of_service:
            self.targets[address] = frontend, target
            self.aim(target, frontend)

    def aim(self, target: Target, frontend: forwarding.Frontend) -> None:
        """Have the clients of `target` go where those of `frontend` are to go now."""
        target.picker = self.picker(frontend)
        if isinstance(target, udp_target.Target):
            refuses = isinstance(target.picker, refusing.RefusingPicker)
            known = target.turned_away or turned_away.TurnedAway()
            target.turned_away = known if refuses else None

    def start(self, pools: Sequence[forwarding.Pool]) -> None:
        """Balance over what a service port has that rested: few backends, all of weight 1."""
        for pool in pools:
            made = self.balancers[pool.scope, pool.family] = self._make(pool.scope)
            made.start(pool.backends)

    def update_steps(self, message: forwarding.SetBackends) -> Iterator[None]:
        """Balance as the message says, in steps."""
        self.policy = policy = message.policy
        self._follow_policy(policy)
        pools = {(pool.scope, pool.family): pool for pool in message.pools}
        for side in self.balancers.keys() - pools.keys() if self.balancers else ():
            yield from self.balancers[side].update_steps((), (), policy)
        for side, pool in pools.items():
            yield from self.balancer(*side).update_steps(pool.backends, pool.weights, policy)
        refused = {side: pool for side, pool in pools.items() if pool.refused}
        if refused or self._refused:
            self._refused = refused
            for frontend, target in self.targets.values():
                self.aim(target, frontend)

    def _follow_policy(self, policy: forwarding.Policy) -> None:
        """What holds for connections from now on."""
        version = policy.proxy_protocol
        self.terms.build_header = proxy_protocol.BUILDERS[version] if version else None
        is_counted = selecting.STRATEGIES[policy.strategy].counts
        self.terms.loads = self.loads if is_counted else None

    def snapshot(self) -> snapshots.ServicePort:
        """What happened here so far."""
        counters = self.counters
        tables = [each.affinity_table for each in self.balancers.values()]
        present = [table for table in tables if table is not None]
        return snapshots.ServicePort(
            active=counters.active,
            accepted=counters.accepted,
            ended={reason: count for reason, count in counters.ended.items() if count},
            bytes_from_clients=counters.bytes_from_clients,
            bytes_from_backends=counters.bytes_from_backends,
            dial_failures=dict(counters.dial_failures),
            listen_drops=(
                counters.listen_drops + sum(each.drops for each in self.listeners.values())
            ),
            reached=sum(each.total for each in counters.endpoints.values()),
            affinity_entries=sum(map(len, present)) if present else None,
            affinity_evictions=sum(table.evicted for table in present) if present else None,
        )

    def is_used(self, backend: addresses.SocketAddress) -> bool:
        """Whether new connections go to `backend` without reservation."""
        return any(each.is_free(backend) for each in self.balancers.values())


def _report_nothing(_: Sequence[addresses.SocketAddress]) -> None:
    """Another balancer reports it."""


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
