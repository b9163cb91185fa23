"""The kind TCPRoute; see `routes`."""

from dataclasses import dataclass
from typing import ClassVar

from kproxy.model import names
from kproxy.model.kinds.gateway import routes


@dataclass(frozen=True, slots=True)
class TcpRoute(routes.Route):
    """A route of TCP."""

    kind: ClassVar[str] = "TCPRoute"
    protocol: ClassVar[names.Protocol] = names.Protocol.TCP


KIND = routes.kind(TcpRoute, "tcproutes")
