"""The virtual addresses of a Service's ports, and where a portal binds them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from kproxy import errors
from kproxy.model import addresses, forwarding
from kproxy.model.kinds import services
from kproxy.portal import portal

_KINDS = forwarding.FrontendKind


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a frontend is to be bound. Without an address, `state` and `detail` say why.

    `admitted` says which clients it takes. If it takes none although there are endpoints for them,
    `state` is DROPPED and `detail` says why.
    """

    frontend: forwarding.Frontend
    address: forwarding.PortalAddress | None
    state: forwarding.FrontendState | None = None
    detail: str = ""
    admitted: forwarding.Admission = None


class Spot(NamedTuple):
    """An address of a Service: with the number of a port it is a frontend."""

    kind: forwarding.FrontendKind
    address: str
    scope: forwarding.Scope
    family: addresses.Family


def spots(service: services.Service, node: portal.Node, *, has_node_port: bool) -> tuple[Spot, ...]:
    """The addresses of each port of `service`, in the order in which they are shown."""
    internal, external = _scope(service.internal_policy), _scope(service.external_policy)

    def at(kind: forwarding.FrontendKind, address: str, scope: forwarding.Scope) -> Spot:
        return Spot(kind, address, scope, addresses.family(address))

    found = [at(_KINDS.CLUSTER_IP, each, internal) for each in service.cluster_ips]
    if has_node_port:
        for family, address in node_addresses(service, node):
            found.append(Spot(_KINDS.NODE_PORT, address, external, family))
    found += [at(_KINDS.EXTERNAL_IP, each, external) for each in service.external_ips]
    found += [at(_KINDS.LOAD_BALANCER, each, external) for each in service.load_balancer_ips]
    return tuple(found)


def node_addresses(
    service: services.Service, node: portal.Node
) -> tuple[tuple[addresses.Family, str], ...]:
    """The node addresses for a Service's node ports, in the Service's families."""
    families = dict.fromkeys(map(addresses.family, service.cluster_ips))
    return tuple(
        (family, address)
        for family in families
        for address in [each for each in node.addresses if addresses.family(each) is family] or [""]
    )


def rooms(wanted: Sequence[int], most: int) -> Iterator[int]:
    """How many frontends each port may have, of those that it wants, `most` in all.

    All ports get a ClusterIP before any gets more.
    """
    extra = most - len(wanted)
    for index, count in enumerate(wanted):
        more = min(count - 1, max(extra, 0))
        extra -= more
        yield 1 + more if index < most else 0


def places(
    service: services.Service,
    port: services.ServicePort,
    at: Sequence[Spot],
    room: int,
    through: portal.Portal,
    limit: int,
) -> tuple[Place, ...]:
    """Where the frontends of one port are. One more than `room` stands for all others.

    `limit` is that of the Service.
    """
    made: list[Place] = []
    for kind, address, scope, family in at:
        number = port.node_port if kind is _KINDS.NODE_PORT else port.port
        frontend = forwarding.Frontend(kind, address, number, scope, port.protocol, family)
        if len(made) == room:
            made.append(_beyond(frontend, len(at) - room, limit))
            break
        is_other = bool(made) and kind is _KINDS.CLUSTER_IP
        if is_other and family not in through.families:
            made.append(_of_unserved_family(frontend, service))
        else:
            made.append(located(frontend, through))
    return tuple(made)


def located(frontend: forwarding.Frontend, through: portal.Portal) -> Place:
    """Where a portal binds a frontend, or why it does not."""
    at = frontend
    if frontend.kind is _KINDS.HEALTH_CHECK:
        at = replace(frontend, kind=_KINDS.NODE_PORT)
    try:
        return Place(frontend, through.locate(at))
    except errors.PortalRefusedError as error:
        return Place(frontend, None, forwarding.FrontendState.REFUSED, str(error))
    except errors.PortalUnavailableError as error:
        return Place(frontend, None, forwarding.FrontendState.UNAVAILABLE, str(error))


def own_addresses(among: Sequence[Place]) -> frozenset[addresses.SocketAddress]:
    """The service port's own frontends: an endpoint there would be dialled for ever (D14)."""
    own = set()
    for place in among:
        virtual, bound = place.frontend, place.address
        own.add(addresses.SocketAddress(virtual.address, virtual.port))
        if bound is not None and (bound.address, bound.port) not in own:
            own.add(bound.socket_address)
    return frozenset(own)


def _scope(policy: services.TrafficPolicy) -> forwarding.Scope:
    if policy is services.TrafficPolicy.LOCAL:
        return forwarding.Scope.LOCAL
    return forwarding.Scope.CLUSTER


def _of_unserved_family(frontend: forwarding.Frontend, service: services.Service) -> Place:
    """The other cluster IP of a dual-stack Service, when the portal serves one family only."""
    return Place(
        frontend,
        None,
        forwarding.FrontendState.NOT_SERVED,
        f"this portal serves no {frontend.family} addresses: clients use {service.cluster_ip}",
    )


def _beyond(frontend: forwarding.Frontend, count: int, limit: int) -> Place:
    others = f"this and {count - 1} more addresses of the port are" if count > 1 else "it is"
    return Place(
        frontend,
        None,
        forwarding.FrontendState.OVER_BUDGET,
        f"{others} not served: the Service wants more than {limit} ports and addresses; "
        "raise --max-ports-per-service",
    )
