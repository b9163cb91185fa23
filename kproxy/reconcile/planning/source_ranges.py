"""Which clients a frontend admits: source ranges and the Local policy's drop, combined.

docs/behaviour.md rows 17 and 26 to 28. The portal or the data plane drops all other clients.
"""

import functools
import ipaddress
from collections.abc import Iterable, Iterator

from kproxy.model import addresses, forwarding
from kproxy.model.kinds import services
from kproxy.portal import portal


def admission(
    service: services.Service,
    frontend: forwarding.Frontend,
    fate: forwarding.FrontendState,
    node: portal.Node,
) -> forwarding.Admission:
    """The clients that `frontend` admits, for `fate` BOUND or DROPPED; None for all."""
    ranges = _ranges(service, frontend, node)
    if fate is not forwarding.FrontendState.DROPPED:
        return ranges
    if not frontend.is_external or not node.near:
        return ()
    # This host connects to an address of its own from that very address.
    near = _of_family((*node.near, _single(frontend.address)), frontend.family)
    return near if ranges is None else tuple(_common(ranges, near))


def _ranges(
    service: services.Service, frontend: forwarding.Frontend, node: portal.Node
) -> forwarding.Admission:
    """The networks that `loadBalancerSourceRanges` admits; None for all.

    Without a network of the frontend's family that is everything, as in kube-proxy.
    """
    if frontend.kind is not forwarding.FrontendKind.LOAD_BALANCER or not service.source_ranges:
        return None
    ranges = _of_family(service.source_ranges, frontend.family)
    if not ranges or any(each.endswith("/0") for each in ranges):
        return None
    if any(_holds(each, own) for each in ranges for own in node.own):
        # A load balancer's address may be this host's own too, by a route or in an interface. What
        # a client on this host sends there comes from that address, and not from the node's.
        own = map(_single, service.load_balancer_ips)
        return tuple(dict.fromkeys((*ranges, *_of_family(own, frontend.family))))
    return ranges


def _of_family(networks: Iterable[str], family: addresses.Family) -> tuple[str, ...]:
    return tuple(each for each in networks if addresses.family(each) is family)


def _single(address: str) -> str:
    return f"{address}/{128 if addresses.family(address) is addresses.Family.IPV6 else 32}"


def _common(one: Iterable[str], other: Iterable[str]) -> Iterator[str]:
    """The intersection. Of two networks that overlap, one contains the other."""
    others = tuple(other)
    for each in one:
        for another in others:
            if _holds(another, each.partition("/")[0]) and _length(another) <= _length(each):
                yield each
                break
            if _holds(each, another.partition("/")[0]):
                yield another


def _length(network: str) -> int:
    return int(network.partition("/")[2])


def _holds(network: str, address: str) -> bool:
    # False for an address of the other family.
    return ipaddress.ip_address(address) in _parsed(network)


@functools.lru_cache(1024)
def _parsed(network: str) -> portal.Network:
    return ipaddress.ip_network(network)
