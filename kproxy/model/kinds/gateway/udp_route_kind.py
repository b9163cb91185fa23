"""The kind UDPRoute; see `routes`."""

from dataclasses import dataclass
from typing import ClassVar

from kproxy.model import names
from kproxy.model.kinds.gateway import routes


@dataclass(frozen=True, slots=True)
class UdpRoute(routes.Route):
    """A route of UDP."""

    kind: ClassVar[str] = "UDPRoute"
    protocol: ClassVar[names.Protocol] = names.Protocol.UDP


KIND = routes.kind(UdpRoute, "udproutes")
