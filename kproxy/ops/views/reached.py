"""Where clients reach each Service: its ClusterIPs, at the places where the portal has bound them.

On the loopback portal these are addresses in 127/8, and sometimes other ports. Names, hosts files
and the environment of a command lead clients there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kproxy.model import addresses, forwarding, names
from kproxy.model.kinds import endpoints, services
from kproxy.ops.views import observed

_COLLISION = forwarding.FrontendState.COLLISION


@dataclass(frozen=True, slots=True)
class ReachedPort:
    """A port of a Service, and where clients connect: one place for each of its ClusterIPs."""

    name: str
    protocol: names.Protocol
    port: int
    at: tuple[addresses.SocketAddress, ...]


@dataclass(frozen=True, slots=True)
class Reached:
    """A Service with its ports in the order of its spec; a port without a place is left out."""

    name: names.NamespacedName
    ports: tuple[ReachedPort, ...]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it is, without ports: one address for each ClusterIP, the first one first."""
        return tuple(dict.fromkeys(place.address for port in self.ports for place in port.at))


def service(seen: observed.Observed, known: services.Service) -> Reached:
    """Where a Service is reached. An address that belongs to another Service is none of its own."""
    found = {}
    for plan in seen.proxier.of_service(known.name):
        places = [
            status.bound.socket_address
            for status in seen.proxier.frontends(plan.rule.name)
            if status.frontend.kind is forwarding.FrontendKind.CLUSTER_IP
            and status.bound is not None
            and status.state is not _COLLISION
        ]
        found[plan.rule.name.port, plan.rule.name.protocol] = tuple(places)
    ports = (
        ReachedPort(port.name, port.protocol, port.port, found.get((port.name, port.protocol), ()))
        for port in known.ports
    )
    return Reached(known.name, tuple(port for port in ports if port.at))


def every(seen: observed.Observed, namespace: str) -> Iterator[Reached | None]:
    """The Services of a namespace that are served, in any order; None is a step."""
    held = seen.source.store
    for name in held.service_names():
        known = held.service(name) if name.namespace == namespace else None
        yield service(seen, known) if known is not None else None


def ready_hosts(sources: Iterable[endpoints.EndpointsObject]) -> tuple[endpoints.Host, ...]:
    """The ready endpoints of a Service, without ports, sorted by address.

    Those of headless Services are known only where names are asked for (`parts.make_source`).
    """
    found = {
        host
        for source in sources
        for group in endpoints.hosts_of(source)
        for host in group.hosts
        if host.ready
    }
    return tuple(sorted(found))
