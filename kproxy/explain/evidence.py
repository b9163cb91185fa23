"""What is known of a Service, as frozen data: the input of an explanation.

It crosses the control socket as JSON. Objects are those of `kproxy.model`.
"""

from dataclasses import dataclass

import msgspec

from kproxy.model import addresses, forwarding, names
from kproxy.model.kinds import endpoints, services
from kproxy.plane import snapshots


@dataclass(frozen=True, slots=True)
class Question:
    """Which client asks for which Service.

    `port` is the name or the number of a port, "" for the Service's only or first one. `client` is
    the IP address of the client, "" for any. `to` is where the client connects, None for the
    address that clients use first.
    """

    service: names.NamespacedName
    port: str = ""
    client: str = ""
    to: addresses.SocketAddress | None = None


@dataclass(frozen=True, slots=True)
class FrontendSeen:
    """A virtual address of a service port, where it is bound, and its state."""

    frontend: forwarding.Frontend
    bound: forwarding.PortalAddress | None
    state: forwarding.FrontendState
    detail: str = ""
    admitted: forwarding.Admission = None


@dataclass(frozen=True, slots=True)
class EndpointSeen:
    """What a running data plane knows of an endpoint."""

    address: addresses.SocketAddress
    is_boxed: bool = False
    own_address_of: str | None = None


@dataclass(frozen=True, slots=True)
class PortSeen:
    """A service port: what is served of it, and what a running data plane knows.

    `endpoints` are those in some way out of the ordinary; `is_live` says whether a data plane was
    asked. `coming` is where a connection of the client would go now, as far as that is known.
    """

    name: names.ServicePortName
    is_served: bool
    frontends: tuple[FrontendSeen, ...]
    policy: forwarding.Policy
    pools: tuple[forwarding.Pool, ...] = ()
    loops: tuple[addresses.SocketAddress, ...] = ()
    is_live: bool = False
    endpoints: tuple[EndpointSeen, ...] = ()
    coming: tuple[snapshots.Coming, ...] = ()


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that a selector might mean."""

    name: str
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that is known about the Service that a question is about.

    `according_to` says where it comes from, in words that follow "according to". `namesakes` are
    Services of this name in other namespaces, `neighbours` the names in this one that are most
    alike. `pods` are those of the namespace, None where none is known. `near` are the networks
    whose clients count as on this node. `problems` are sentences about an object of the Service
    that was refused.
    """

    question: Question
    according_to: str
    node: str = ""
    near: tuple[str, ...] = ()
    service: services.Service | None = None
    sources: tuple[endpoints.EndpointsObject, ...] = ()
    ports: tuple[PortSeen, ...] = ()
    namesakes: tuple[names.NamespacedName, ...] = ()
    neighbours: tuple[str, ...] = ()
    pods: tuple[Pod, ...] | None = None
    problems: tuple[str, ...] = ()


_DECODER = msgspec.json.Decoder(Evidence)


def decode(data: bytes) -> Evidence:
    """From JSON. Raises msgspec.MsgspecError."""
    return _DECODER.decode(data)
