"""Endpoints of a Service port: the places its connections can go.

`Endpoint` carries what the API says of one backend. `chosen_in_steps` decides which endpoints
receive new connections.
"""

import heapq
import operator
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from kproxy.model import addresses, names, steps

_STRIDE = 512
"""Endpoints looked at between two pauses: some 100 us."""

_IPV4, _IPV6 = addresses.Family.IPV4, addresses.Family.IPV6


class Endpoint(msgspec.Struct, frozen=True, order=True, gc=False):
    """One backend of a service port with the conditions the API gives it.

    Absent conditions mean ready and serving and not terminating
    (kube-proxy `endpointslicecache.go`; docs/behaviour.md row 35). `node` is "" when unknown.
    `for_zones` and `for_nodes` name those whose clients should use it: hints, which hold only if
    all ready endpoints have some (row 33). `pod` is the name of the pod that it is, in the
    namespace of its Service; "" when it is none.
    """

    backend: addresses.SocketAddress
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""
    for_zones: tuple[str, ...] = ()
    for_nodes: tuple[str, ...] = ()
    pod: str = ""


class Host(msgspec.Struct, frozen=True, order=True, gc=False):
    """An endpoint as names know it: an address, without a port. `hostname` is "" if it has none."""

    address: str
    hostname: str = ""
    ready: bool = True


class Port(NamedTuple):
    """A port of endpoints: its name, which may be "", and its number there."""

    name: str
    protocol: names.Protocol
    number: int


class Hosts(msgspec.Struct, frozen=True, gc=False):
    """Hosts, sorted, each of which has all `ports`."""

    hosts: tuple[Host, ...]
    ports: tuple[Port, ...]


class EndpointPort(NamedTuple):
    """The endpoints behind one named port, merged: one per ip:port, sorted."""

    name: str
    protocol: names.Protocol
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class EndpointsObject:
    """One Endpoints or EndpointSlice object, after validation and the address policy.

    `kind` is the name of its kind, `name` its own name. `service` is the Service it belongs to:
    the one of the same name for Endpoints, the one its label names, in its own namespace, for a
    slice. Ports are joined with a Service's by *name* and protocol, never by number
    (docs/behaviour.md row 4).

    `hosts` is there only where a kind was asked for names, and where `ports` does not say the
    same: for headless Services, of which `ports` is empty since they are not proxied, and where
    endpoints have hostnames or no ports.
    """

    name: names.NamespacedName
    service: names.NamespacedName
    kind: str
    ports: tuple[EndpointPort, ...] = ()
    hosts: tuple[Hosts, ...] = ()

    def at(self, port: str, protocol: names.Protocol) -> tuple[Endpoint, ...]:
        """The endpoints of the port so named; () if the object has no such port."""
        for entry in self.ports:
            if entry.name == port and entry.protocol is protocol:
                return entry.endpoints
        return ()


def hosts_of(made: EndpointsObject) -> Iterator[Hosts]:
    """The hosts of an object, in groups that share their ports; a host may be in several."""
    if made.hosts:
        yield from made.hosts
        return
    for port in made.ports:
        by_number: dict[int, list[Host]] = {}
        for each in port.endpoints:
            host = Host(each.backend.address, ready=each.ready)
            by_number.setdefault(each.backend.port, []).append(host)
        for number, hosts in by_number.items():
            yield Hosts(tuple(hosts), (Port(port.name, port.protocol, number),))


def merged(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """`endpoints` with one entry per ip:port, sorted.

    Of duplicates the most useful one stays: ready before not ready, serving before not, staying
    before terminating, on a known node before an unknown one. The result does not depend on the
    order of the input (docs/behaviour.md row 36, modern).
    """
    best: dict[addresses.SocketAddress, Endpoint] = {}
    for endpoint in endpoints:
        rival = best.setdefault(endpoint.backend, endpoint)
        if rival is not endpoint and _preference(endpoint) > _preference(rival):
            best[endpoint.backend] = endpoint
    return tuple(best[backend] for backend in sorted(best))


def merged_from_any_in_steps(
    endpoints: Sequence[Endpoint],
) -> Generator[None, None, tuple[Endpoint, ...]]:
    """As `merged`, with a pause now and then."""
    if len(endpoints) <= _STRIDE:
        return merged(endpoints)
    in_order = yield from steps.sorted_in_steps(endpoints, operator.attrgetter("backend"))
    return (yield from _without_doubles(in_order))


def merged_in_steps(
    groups: Sequence[tuple[Endpoint, ...]],
) -> Generator[None, None, tuple[Endpoint, ...]]:
    """As `merged`, of groups that are merged themselves, with a pause now and then."""
    if len(groups) == 1:
        return groups[0]
    if sum(map(len, groups)) <= _STRIDE:
        return merged(endpoint for group in groups for endpoint in group)
    return (yield from _without_doubles(heapq.merge(*groups, key=operator.attrgetter("backend"))))


def _without_doubles(
    in_order: Iterable[Endpoint],
) -> Generator[None, None, tuple[Endpoint, ...]]:
    """Of endpoints of one backend, which follow each other, the most useful one."""
    made: list[Endpoint] = []
    for count, endpoint in enumerate(in_order, 1):
        if not made or made[-1].backend != endpoint.backend:
            made.append(endpoint)
        elif _preference(endpoint) > _preference(made[-1]):
            made[-1] = endpoint
        if count % _STRIDE == 0:
            yield
    return tuple(made)


def _preference(endpoint: Endpoint) -> tuple[object, ...]:
    hints = endpoint.for_zones, endpoint.for_nodes
    return endpoint.ready, endpoint.serving, not endpoint.terminating, endpoint.node, hints


class OfFamily(msgspec.Struct, frozen=True, gc=False):
    """The endpoints of one family that get new connections: of the whole cluster, of this node.

    `is_seen` says whether there are any of the family, of whatever readiness.
    """

    cluster: tuple[addresses.SocketAddress, ...] = ()
    local: tuple[addresses.SocketAddress, ...] = ()
    is_seen: bool = False


_NONE = OfFamily()
_NO_LOOPS: frozenset[addresses.SocketAddress] = frozenset()


class Chosen(msgspec.Struct, frozen=True, gc=False):
    """The endpoints of one port that get new connections.

    `loops` are endpoints that were left out because they are addresses of the Service itself.
    """

    families: Mapping[addresses.Family, OfFamily]
    loops: frozenset[addresses.SocketAddress] = _NO_LOOPS


class _Pool:
    """The endpoints of one address family: ready ones, and those serving while terminating."""

    __slots__ = (
        "draining",
        "draining_here",
        "for_node",
        "for_zone",
        "ready",
        "ready_here",
        "with_node_hints",
        "with_zone_hints",
    )

    def __init__(self) -> None:
        self.ready: list[addresses.SocketAddress] = []
        self.draining: list[addresses.SocketAddress] = []
        self.ready_here: list[addresses.SocketAddress] = []
        self.draining_here: list[addresses.SocketAddress] = []
        self.with_node_hints = 0
        self.with_zone_hints = 0
        self.for_node: list[addresses.SocketAddress] = []
        self.for_zone: list[addresses.SocketAddress] = []

    def add_hinted(self, endpoint: Endpoint, node: str, zone: str) -> None:
        """Note the hints of a ready endpoint."""
        if endpoint.for_nodes:
            self.with_node_hints += 1
            if node in endpoint.for_nodes:
                self.for_node.append(endpoint.backend)
        if endpoint.for_zones:
            self.with_zone_hints += 1
            if zone in endpoint.for_zones:
                self.for_zone.append(endpoint.backend)

    def chosen(self) -> OfFamily:
        return OfFamily(
            tuple(self._close() or self.draining),
            tuple(self.ready_here or self.draining_here),
            is_seen=True,
        )

    def _close(self) -> list[addresses.SocketAddress]:
        """The ready ones, without those that are meant for other nodes or zones.

        kube-proxy's `topologyModeFromHints`: an endpoint without a hint switches hints off,
        because the controller made them before it knew that endpoint.
        """
        every = len(self.ready)
        if self.for_node and self.with_node_hints == every:
            return self.for_node
        if self.for_zone and self.with_zone_hints == every:
            return self.for_zone
        return self.ready


def chosen_in_steps(
    found: Iterable[Endpoint],
    node: str,
    own: AbstractSet[tuple[str, int]],
    zone: str = "",
) -> Generator[None, None, Chosen]:
    """Which of `found` get new connections: one pass, with a pause now and then.

    The ready ones, else those that are serving while terminating, which keeps a Service up while
    its last pods drain (KEP-1669; docs/behaviour.md row 34). This holds for the cluster and for
    `node` separately; an empty node name matches none (row 29). `own` addresses are left out.
    Of the cluster's, those for `node`, or else for `zone`, are chosen where hints say so (row 33).
    A dual-stack Service has each pod twice, once in each family (row 39).
    """
    pools: dict[addresses.Family, _Pool] = {}
    loops: set[addresses.SocketAddress] = set()
    for count, endpoint in enumerate(found, 1):
        if count % _STRIDE == 0:
            yield
        backend = endpoint.backend
        family = _IPV6 if ":" in backend.address else _IPV4
        pool = pools.get(family)
        if pool is None:
            pool = pools[family] = _Pool()
        is_draining = endpoint.serving and endpoint.terminating
        if not endpoint.ready and not is_draining:
            continue
        if backend in own:
            loops.add(backend)
            continue
        (pool.ready if endpoint.ready else pool.draining).append(backend)
        if endpoint.ready and (endpoint.for_zones or endpoint.for_nodes):
            pool.add_hinted(endpoint, node, zone)
        if node and endpoint.node == node:
            (pool.ready_here if endpoint.ready else pool.draining_here).append(backend)
    ipv4, ipv6 = pools.get(_IPV4), pools.get(_IPV6)
    families = {
        _IPV4: ipv4.chosen() if ipv4 is not None else _NONE,
        _IPV6: ipv6.chosen() if ipv6 is not None else _NONE,
    }
    return Chosen(families, frozenset(loops) if loops else _NO_LOOPS)
