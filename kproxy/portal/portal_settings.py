"""The settings of portals, which `config.Config` inherits."""

import ipaddress
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kproxy import settings
from kproxy.portal import portal

_SMALLEST = 24
"""The longest prefix: the bits behind it distinguish the addresses of Services."""


@dataclass(frozen=True, slots=True)
class _LoopbackNetwork(settings.ShownAsText):
    """A part of 127/8."""

    metavar: str = "CIDR"
    name: str = "CIDR"
    bounds: str = "127.0.0.0/8, or a network in it of at least /24"

    def parse(self, text: str) -> ipaddress.IPv4Network:
        """The network. Raises ValueError."""
        try:
            network = ipaddress.IPv4Network(text.strip())
        except ValueError as error:
            raise ValueError(f"must be {self.bounds} ({error})") from None
        if not network.subnet_of(portal.LOOPBACK) or network.prefixlen > _SMALLEST:
            raise ValueError(f"must be {self.bounds}")
        return network


@dataclass(frozen=True, slots=True)
class Cidr(settings.ShownAsText):
    """Networks of IP addresses, or single addresses, separated by commas.

    Where not `is_strict`, as in kube-proxy's flags, 192.0.2.7/24 is 192.0.2.0/24.
    """

    is_strict: bool = True
    check: Callable[[portal.Network], None] = lambda _: None
    metavar: str = "CIDR,..."
    name: str = "CIDR"
    bounds: str = "such as 203.0.113.0/24 or 203.0.113.7"

    def parse(self, text: str) -> tuple[portal.Network, ...]:
        """The networks; none of an empty text. Raises ValueError."""
        if not text.strip():
            return ()
        try:
            networks = tuple(
                ipaddress.ip_network(each.strip(), strict=self.is_strict)
                for each in text.split(",")
            )
        except ValueError as error:
            raise ValueError(f"must be a CIDR, {self.bounds} ({error})") from None
        for each in networks:
            self.check(each)
        return networks


@dataclass(frozen=True, slots=True)
class _NodePorts(settings.ShownAsText):
    """Which addresses of the node have node ports, as kube-proxy's flag says it."""

    metavar: str = "CIDR,...|primary"
    name: str = "CIDR"
    bounds: str = "such as 192.0.2.0/24, or primary"

    def parse(self, text: str) -> portal.NodePorts:
        """The networks, or `primary`. Raises ValueError."""
        if text.strip() == "primary":
            return portal.NodePorts(is_primary=True)
        try:
            return portal.NodePorts(Cidr(is_strict=False).parse(text))
        except ValueError as error:
            raise ValueError(f"{error}; or primary") from None

    def collect(self, given: Sequence[portal.NodePorts]) -> portal.NodePorts:
        """All that was given. Raises ValueError where `primary` and networks are mixed."""
        networks = tuple(itertools.chain.from_iterable(each.networks for each in given))
        is_primary = any(each.is_primary for each in given)
        if networks and is_primary:
            raise ValueError("is primary or a list of CIDRs, not both: leave one out")
        return portal.NodePorts(networks, is_primary)


@dataclass(frozen=True, slots=True)
class _NodePortsList(settings.Each[portal.NodePorts]):
    """Several values of `--nodeport-addresses` as one."""

    def show(self, value: Any) -> str:
        return "primary" if value.is_primary else ",".join(map(str, value.networks))


def _joined(lists: Iterable[tuple[portal.Network, ...]]) -> tuple[portal.Network, ...]:
    return tuple(itertools.chain.from_iterable(lists))


NETWORKS = settings.Each(Cidr(), _joined)
"""Networks, exactly as they are meant; repeatable."""


@dataclass(frozen=True, kw_only=True)
class PortalSettings:
    """How addresses are bound."""

    loopback_network: ipaddress.IPv4Network = settings.setting(
        portal.LOOPBACK,
        _LoopbackNetwork(),
        "Where the loopback portal binds: ClusterIP a.b.c.d at its last bits in this network. With "
        "networks of their own several proxies serve on one machine, as nodes of a cluster.",
    )
    bpf: bool = settings.setting(
        True,  # noqa: FBT003  # a default
        settings.Switch(),
        "Let the local portal load a BPF program that gives all TCP ports to one listening socket; "
        "without it each port has one.",
    )
    service_cluster_ip_range: tuple[portal.Network, ...] = settings.setting(
        (),
        settings.Each(Cidr(is_strict=False, check=portal.check_service_network), _joined),
        "Networks of this cluster's ClusterIPs, for which the local portal makes one route each "
        "instead of one for each address; repeatable. As the API server's flag. Without it, those "
        "of the API's ServiceCIDR objects.",
    )
    cleanup: bool = settings.setting(
        False,  # noqa: FBT003  # a default
        settings.Switch(),
        "Remove what an earlier life of the local portal left on this host, and exit.",
    )
    external_ip_cidrs: tuple[portal.Network, ...] = settings.setting(
        (),
        NETWORKS,
        "Serve the externalIPs of Services that are in CIDR; repeatable.",
        shown_default="none is served",
    )
    nodeport_addresses: portal.NodePorts = settings.setting(
        portal.NodePorts(),
        _NodePortsList(_NodePorts(), _NodePorts().collect),
        "Serve node ports on the addresses of this node that are in CIDR, or on its primary ones; "
        "repeatable. Not for the loopback portal, which has them on 127.0.0.1.",
        shown_default="all of them",
    )
    cluster_cidr: tuple[portal.Network, ...] = settings.setting(
        (),
        settings.Each(Cidr(is_strict=False), _joined),
        "Networks of this cluster's pods: to an external Local policy they are on this node. "
        "Not for the loopback portal.",
    )
