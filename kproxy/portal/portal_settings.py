"""The settings of portals, which `config.Config` inherits."""

import ipaddress
from dataclasses import dataclass

from kproxy import settings
from kproxy.portal import portal

_SMALLEST = 24
"""The longest prefix: a Service's address is told by the bits behind it."""


@dataclass(frozen=True, slots=True)
class _LoopbackNetwork:
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

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, kw_only=True)
class PortalSettings:
    """How addresses are bound."""

    loopback_network: ipaddress.IPv4Network = settings.setting(
        portal.LOOPBACK,
        _LoopbackNetwork(),
        "Where the loopback portal binds: ClusterIP a.b.c.d at its last bits in this network. With "
        "networks of their own several proxies serve on one machine, as nodes of a cluster.",
    )
