"""The virtual addresses of a Service's ports, and where a portal binds them."""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from kproxy import errors
from kproxy.model import addresses, forwarding
from kproxy.model.kinds import services
from kproxy.portal import portal

_KINDS = forwarding.FrontendKind
_BY_ADDRESS = frozenset({_KINDS.EXTERNAL_IP, _KINDS.LOAD_BALANCER})
"""Kinds whose addresses the Service names, in whatever family."""


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


_Spot: TypeAlias = tuple[forwarding.FrontendKind, str, forwarding.Scope, addresses.Family]
"""An address of a Service; with the number of a port it is a frontend."""


def sites(
    service: services.Service,
    ports: Sequence[services.ServicePort],
    through: portal.Portal,
    most: int,
) -> Iterator[tuple[Place, ...]]:
    """The places of each of `ports`, which are of `service`: `most` in all.

    All ports get a ClusterIP before any gets more. One place more stands for those that a port does
    not get.
    """
    plain = with_node_port = _spots(service, ())
    if any(each.node_port for each in ports):
        with_node_port = _spots(service, node_addresses(service, through.node))
    extra = most - len(ports)
    for index, port in enumerate(ports):
        spots = with_node_port if port.node_port else plain
        more = min(len(spots) - 1, max(extra, 0))
        extra -= more
        room = 1 + more if index < most else 0
        yield _places(service, port, spots, through, room, most)


def _spots(
    service: services.Service, of_node: Sequence[tuple[addresses.Family, str]]
) -> list[_Spot]:
    """The addresses of a port, in the order in which they are shown."""
    internal, external = _scope(service.internal_policy), _scope(service.external_policy)
    family_of = addresses.family
    return [
        *[(_KINDS.CLUSTER_IP, each, internal, family_of(each)) for each in service.cluster_ips],
        *[(_KINDS.NODE_PORT, each, external, family) for family, each in of_node],
        *[(_KINDS.EXTERNAL_IP, each, external, family_of(each)) for each in service.external_ips],
        *[
            (_KINDS.LOAD_BALANCER, each, external, family_of(each))
            for each in service.load_balancer_ips
        ],
    ]


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


def _places(
    service: services.Service,
    port: services.ServicePort,
    spots: Sequence[_Spot],
    through: portal.Portal,
    room: int,
    limit: int,
) -> tuple[Place, ...]:
    """Where the frontends of one port are: `room` of them, and one that stands for the others."""
    made: list[Place] = []
    for kind, address, scope, family in spots:
        number = port.node_port if kind is _KINDS.NODE_PORT else port.port
        frontend = forwarding.Frontend(kind, address, number, scope, port.protocol, family)
        if len(made) == room:
            made.append(_beyond(frontend, len(spots) - room, limit))
            break
        if made and kind is _KINDS.CLUSTER_IP and family not in through.families:
            made.append(_of_unserved_family(frontend, service))
        elif kind in _BY_ADDRESS and not _has_family(service, family):
            made.append(_of_missing_family(frontend))
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


def own_addresses(among: Sequence[Place]) -> AbstractSet[tuple[str, int]]:
    """The service port's own frontends: an endpoint there would be dialled for ever (D14)."""
    own = set()
    for place in among:
        virtual, bound = place.frontend, place.address
        own.add((virtual.address, virtual.port))
        if bound is not None and (bound.address, bound.port) not in own:
            own.add(bound.socket_address)
    return own


def _scope(policy: services.TrafficPolicy) -> forwarding.Scope:
    if policy is services.TrafficPolicy.LOCAL:
        return forwarding.Scope.LOCAL
    return forwarding.Scope.CLUSTER


def _has_family(service: services.Service, family: addresses.Family) -> bool:
    """Whether the Service is there in a family, as kube-proxy sees it: by its ClusterIPs."""
    return any(addresses.family(each) is family for each in service.cluster_ips)


def _of_missing_family(frontend: forwarding.Frontend) -> Place:
    """An external address of a family that the Service has no ClusterIP of (row 39).

    It is not captured: a load balancer may translate such an address for its clients.
    """
    return Place(
        frontend,
        None,
        forwarding.FrontendState.NOT_SERVED,
        f"the Service has no ClusterIP of {frontend.family}: its addresses of that family are not "
        "served, as with kube-proxy",
    )


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
