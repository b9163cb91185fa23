"""Words for an explanation: how things are counted, listed and compared."""

import ipaddress
from collections.abc import Sequence

from kproxy.explain.evidence import Evidence, FrontendSeen, PortSeen
from kproxy.model import addresses, forwarding
from kproxy.model.judging import weight_annotations
from kproxy.model.kinds import endpoints, services

SHOWN = 5
"""A sentence names at most so many things of one sort; the others are counted."""
LEFT_OUT = "are not ready, hinted for elsewhere, or of weight 0"


def is_of(seen: PortSeen, port: services.ServicePort) -> bool:
    """Whether both have the same name and protocol, which identify a port."""
    return (seen.name.port, seen.name.protocol) == (port.name, port.protocol)


def is_in(client: str, networks: Sequence[str]) -> bool:
    """Whether a client is in one of these networks, given as CIDRs."""
    address = ipaddress.ip_address(client)
    return any(address in ipaddress.ip_network(each) for each in networks)


def written(frontend: forwarding.Frontend) -> str:
    """A frontend in words: its address and port."""
    return str(addresses.SocketAddress(frontend.address or "any address", frontend.port))


def endpoint_object(source: endpoints.EndpointsObject) -> str:
    """An Endpoints or EndpointSlice object in words, with its number of endpoints."""
    count = len({each.backend for port in source.ports for each in port.endpoints})
    return f"{source.kind} {source.name.name} ({counted(count, 'endpoint')})"


def counted(count: int, thing: str) -> str:
    """A count and its noun, in the singular or the plural."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def policy(service: services.Service, frontend: forwarding.Frontend) -> str:
    """Which traffic policy field of the Service applies to a frontend, and its value."""
    if frontend.is_external:
        return f"externalTrafficPolicy is {service.external_policy.value}"
    return f"internalTrafficPolicy is {service.internal_policy.value}"


def of_weight_0(count: int) -> str:
    """That all endpoints that are ready get no new connections."""
    are = "endpoint is" if count == 1 else "endpoints are"
    return f"{count} {are} ready, and each has weight 0 by annotation {weight_annotations.WEIGHTS}"


NOT_BOUND = (forwarding.FrontendState.UNAVAILABLE, forwarding.FrontendState.OPENING)
"""States of an address that is this Service's and has no socket now."""


def advice_on(place: FrontendSeen) -> str:
    """What to change about an address that is not served; "" if `detail` already says it."""
    if place.state is forwarding.FrontendState.COLLISION:
        return "give one of the two Services another address"
    return ""


def advice_on_missing(known: Evidence) -> str:
    """What to do about a Service that is not there."""
    if known.problems:
        return f"its object was refused, correct it: {known.problems[0]}"
    namespace = known.question.service.namespace
    if known.namesakes:
        return f"{listed(known.namesakes)} exists: name that with -n, or NAMESPACE/SERVICE"
    if known.neighbours:
        return (
            f"namespace {namespace} has {listed(known.neighbours)}: create the Service, or name "
            "one of these"
        )
    return f"create it, or name another Service: namespace {namespace} has no Service"


def nearest(wanted: dict[str, str], offered: Sequence[dict[str, str]]) -> str:
    """The labels of the pod that has most keys or values in common with the selector."""

    def likeness(labels: dict[str, str]) -> tuple[int, int]:
        same_keys = sum(key in labels for key in wanted)
        return same_keys, sum(value in labels.values() for value in wanted.values())

    best = max(offered, key=likeness, default={})
    return ",".join(f"{key}={value}" for key, value in sorted(best.items())) or "no labels"


def listed(things: Sequence[object]) -> str:
    """The first of several things, and the number of the others."""
    shown = ", ".join(map(str, things[:SHOWN]))
    return f"{shown} and {len(things) - SHOWN} more" if len(things) > SHOWN else shown
