"""What a mode renders from: service ports with their endpoints, as kube-proxy's proxiers see them.

kube-proxy keeps one proxier for each address family, and each sees only what is of its family
(docs/behaviour.md row 39). A `World` is what one of them sees.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from kproxy.model import addresses, names
from kproxy.model.kinds import endpoints, services


class Release(StrEnum):
    """Whose rules: those of a release of Kubernetes that stands for others around it."""

    V1_12 = "1.12"
    """Unnamed ports' names end with a colon; the form of many articles."""
    V1_20 = "1.20"
    V1_33 = "1.33"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The node for which rules are rendered.

    `name` decides which endpoints are local, and with `zone` which ones hints choose. `address` is
    the node's own, by which source ranges are judged, and the one that userspace mode sends its
    portals to. Clients in `cluster_cidr` are pods; None when that is unknown.
    """

    name: str = ""
    address: str = "127.0.0.1"
    cluster_cidr: str | None = None
    family: addresses.Family = addresses.Family.IPV4
    release: Release = Release.V1_33
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Backend:
    """An endpoint that gets connections. `is_local` says whether it is on the node."""

    address: addresses.SocketAddress
    is_local: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A service port in one family, and the endpoints for each way in.

    `everywhere` is what the Cluster policy balances over, `here` what Local does.
    """

    name: names.ServicePortName
    text: str
    """Its name as kube-proxy of the release writes it, in rules and comments."""
    cluster_ip: str
    number: int
    node_port: int = 0
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    health_check_port: int = 0
    affinity_seconds: int | None = None
    internal_local: bool = False
    external_local: bool = False
    everywhere: tuple[Backend, ...] = ()
    here: tuple[Backend, ...] = ()

    @property
    def protocol(self) -> str:
        """In lower case, as rules spell it."""
        return self.name.protocol.value.lower()

    @property
    def is_external(self) -> bool:
        """Whether clients outside the cluster have an address for it."""
        return bool(self.node_port or self.external_ips or self.load_balancer_ips)


@dataclass(frozen=True, slots=True)
class World:
    """What one of kube-proxy's proxiers sees, in the order of names."""

    node: Node
    ports: tuple[Port, ...]


def written_name(name: names.ServicePortName, release: Release) -> str:
    """A service port's name in rules and comments (`ServicePortName.String`)."""
    text = f"{name.service.namespace}/{name.service.name}"
    return f"{text}:{name.port}" if name.port or release is Release.V1_12 else text


def world(
    found: Iterable[tuple[services.Service, Sequence[endpoints.EndpointsObject]]], node: Node
) -> World:
    """What kube-proxy on `node` sees of these Services and their endpoint objects."""
    ports = [port for service, sources in found for port in _ports(service, sources, node)]
    return World(node, tuple(sorted(ports, key=lambda port: port.name)))


def _ports(
    service: services.Service, sources: Sequence[endpoints.EndpointsObject], node: Node
) -> Iterator[Port]:
    if not service.is_proxied:
        return
    cluster_ip = next(iter(_of_family(service.cluster_ips, node.family)), None)
    if cluster_ip is None:
        return
    for port in service.ports:
        found = endpoints.merged(
            each for source in sources for each in source.at(port.name, port.protocol)
        )
        everywhere, here = _chosen(found, node)
        name = names.ServicePortName(service.name, port.name, port.protocol)
        yield Port(
            name=name,
            text=written_name(name, node.release),
            cluster_ip=cluster_ip,
            number=port.port,
            node_port=port.node_port,
            external_ips=_of_family(service.external_ips, node.family),
            load_balancer_ips=_of_family(service.load_balancer_ips, node.family),
            source_ranges=ranges(service.source_ranges, node.family),
            health_check_port=service.health_check_node_port,
            affinity_seconds=service.affinity_seconds,
            internal_local=service.internal_policy is services.TrafficPolicy.LOCAL,
            external_local=service.external_policy is services.TrafficPolicy.LOCAL,
            everywhere=everywhere,
            here=here,
        )


def _chosen(
    found: Iterable[endpoints.Endpoint], node: Node
) -> tuple[tuple[Backend, ...], tuple[Backend, ...]]:
    """The endpoints of the node's family that get connections: of the cluster, of the node.

    1.20 knows ready endpoints only. Since 1.28 those that serve while terminating stand in where
    no other is ready, in each of the two sets (KEP-1669; docs/behaviour.md row 34). Hints choose
    among those of the cluster (row 33); 1.20 has none.
    """
    ready: list[Backend] = []
    hints: list[endpoints.Endpoint] = []
    draining: list[Backend] = []
    for each in sorted(found, key=lambda each: str(each.backend)):  # kube-proxy's byEndpoint
        if addresses.family(each.backend.address) is not node.family:
            continue
        backend = Backend(each.backend, is_local=bool(node.name) and each.node == node.name)
        if each.ready:
            ready.append(backend)
            hints.append(each)
        elif each.serving and each.terminating and node.release is Release.V1_33:
            draining.append(backend)
    here = [each for each in ready if each.is_local]
    close = ready if node.release is not Release.V1_33 else _hinted(ready, hints, node)
    return tuple(close or draining), tuple(here or [each for each in draining if each.is_local])


def _hinted(ready: list[Backend], found: Sequence[endpoints.Endpoint], node: Node) -> list[Backend]:
    """Those that are meant for the node, else for its zone, if every one has such a hint.

    `found` has the hints of `ready`, in the same order.
    """
    pairs = list(zip(ready, found, strict=True))
    if all(each.for_nodes for each in found):
        mine = [backend for backend, each in pairs if node.name and node.name in each.for_nodes]
        if mine:
            return mine
    if all(each.for_zones for each in found):
        mine = [backend for backend, each in pairs if node.zone and node.zone in each.for_zones]
        if mine:
            return mine
    return ready


def _of_family(texts: Iterable[str], family: addresses.Family) -> tuple[str, ...]:
    return tuple(text for text in texts if addresses.family(text) is family)


def ranges(cidrs: Iterable[str], family: addresses.Family) -> tuple[str, ...]:
    """Source ranges of a family, in canonical form, in the given order."""
    return tuple(
        str(ipaddress.ip_network(cidr, strict=False))
        for cidr in cidrs
        if addresses.family(cidr) is family
    )
