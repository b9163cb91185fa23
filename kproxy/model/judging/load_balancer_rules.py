"""What a Service says to a load balancer and its nodes: source ranges, and where health is asked.

The rules are those of kube-apiserver (`pkg/apis/core/validation/validation.go`).
"""

import ipaddress
from collections.abc import Generator, Sequence

from kproxy.model.judging import findings
from kproxy.model.kinds import services

MOST_SOURCE_RANGES = 400
"""Source ranges of one Service that can be enforced: a socket filter holds 4096 instructions, and
an IPv6 network is ten of them at most. Kubernetes has no bound."""

_PIECE = 32
"""Ranges parsed between two pauses."""


def source_ranges(
    given: Sequence[str] | None, kind: services.ServiceType, found: findings.Findings
) -> Generator[None, None, tuple[str, ...]]:
    """`spec.loadBalancerSourceRanges` as networks, without doubles (docs/behaviour.md row 17).

    They may be padded with white space, and have host bits and leading zeros, as kube-apiserver
    takes them. Of more than `MOST_SOURCE_RANGES` that many and one are kept. Yields where others
    can be let run.
    """
    if not given:
        return ()
    where = "spec.loadBalancerSourceRanges"
    if kind is not services.ServiceType.LOAD_BALANCER:
        found.violate(where, list(given[:1]), "must be absent unless the type is LoadBalancer")
        return ()
    made: dict[str, None] = {}
    for index, text in enumerate(given):
        if index % _PIECE == _PIECE - 1:
            yield
        network = _network(text.strip())
        if network is None:
            found.violate(f"{where}[{index}]", text, "must be a CIDR such as 192.0.2.0/24")
        elif len(made) <= MOST_SOURCE_RANGES:
            made[network] = None
    return tuple(made)


def _network(text: str) -> str | None:
    """The network of a CIDR as Go's `ParseCIDRSloppy` reads it; None if it is none."""
    address, slash, prefix = text.partition("/")
    if not slash or not (prefix.isascii() and prefix.isdecimal()) or len(text) > _LONGEST:
        return None
    if "." in address and ":" not in address:
        address = ".".join(part.lstrip("0") or "0" * bool(part) for part in address.split("."))
    try:
        network = ipaddress.ip_network(f"{address}/{prefix}", strict=False)
    except ValueError:
        return None
    if network.version == 6 and (network.network_address.scope_id or _is_mapped(network)):
        return None
    return str(network)


_LONGEST = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255/128")


def _is_mapped(network: ipaddress.IPv6Network) -> bool:
    """Whether it is of IPv4 addresses in the notation of IPv6, which match no packet."""
    return network.network_address.ipv4_mapped is not None


def health_check_node_port(
    number: int | None,
    kind: services.ServiceType,
    policy: services.TrafficPolicy,
    found: findings.Findings,
) -> int:
    """`spec.healthCheckNodePort`, 0 for none (docs/behaviour.md row 30)."""
    if not number:
        return 0
    where = "spec.healthCheckNodePort"
    if not 0 < number <= 65535:
        found.violate(where, number, "must be from 0 to 65535")
    elif (
        kind is not services.ServiceType.LOAD_BALANCER or policy is not services.TrafficPolicy.LOCAL
    ):
        rule = "must be absent unless type is LoadBalancer and externalTrafficPolicy is Local"
        found.violate(where, number, rule)
    return number
