"""Where clients reach each Service: its ClusterIPs, at the places where the portal has bound them.

On the loopback portal these are addresses in 127/8, and sometimes other ports. Names, hosts files
and the environment of a command lead clients there.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kproxy.model import addresses, forwarding, names
from kproxy.model.kinds import endpoints, services
from kproxy.ops.views import observed
from kproxy.reconcile.planning import rules

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


def service(
    seen: observed.Observed, known: services.Service, plans: Sequence[rules.PortPlan]
) -> Reached:
    """Where a Service is reached; `plans` are those of its ports.

    An address that belongs to another Service is none of its own.
    """
    found = {}
    for plan in plans:
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
    """The Services of a namespace ("" for all) that are served, in any order; None is a step."""
    by_service: dict[names.NamespacedName, list[rules.PortPlan]] = {}
    for plan in seen.proxier.known():
        name = plan.rule.name.service
        if namespace in ("", name.namespace):
            by_service.setdefault(name, []).append(plan)
        yield None
    for name, plans in by_service.items():
        known = seen.source.store.service(name)
        yield service(seen, known, plans) if known is not None else None


def ready_endpoints(sources: Iterable[endpoints.EndpointsObject]) -> tuple[endpoints.Endpoint, ...]:
    """The ready endpoints of all ports of a Service, one for each address, sorted."""
    found: dict[str, endpoints.Endpoint] = {}
    for source in sources:
        for port in source.ports:
            for endpoint in port.endpoints:
                if endpoint.ready:
                    found.setdefault(endpoint.backend.address, endpoint)
    return tuple(sorted(found.values()))
