"""Names that identify what is proxied, in the words of kube-proxy's `pkg/proxy/types.go`."""

from enum import StrEnum
from typing import NamedTuple

GATEWAY_PREFIX = "gateway/"
"""Begins the name that a Gateway has among Services; no object's own name has a slash."""


class Protocol(StrEnum):
    """Transport protocol of a Service port, spelled as the API spells it."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"

    # Enum's own is a call in Python, in every look-up of whatever has a Protocol in its key.
    __hash__ = str.__hash__


class NamespacedName(NamedTuple):
    """Identity of a namespaced object. `str()` gives `namespace/name`."""

    namespace: str
    name: str

    @property
    def is_of_service(self) -> bool:
        """Whether it can be a Service's, as that of a Gateway among Services cannot."""
        return "/" not in self.name

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServicePortName(NamedTuple):
    """The unit that is balanced: one port of one Service, known by its port *name*.

    Balancer state is per port (docs/behaviour.md row 3). The name of a Service's only port may
    be empty; `str()` then omits the colon, as kube-proxy has done since 1.20 (`fmtPortName`).
    """

    service: NamespacedName
    port: str = ""
    protocol: Protocol = Protocol.TCP

    def __str__(self) -> str:
        return f"{self.service}:{self.port}" if self.port else str(self.service)
