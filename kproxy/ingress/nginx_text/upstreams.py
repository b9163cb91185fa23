"""Upstreams: where nginx connects to, one block for each service port and protocol."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeAlias

from kproxy.ingress import table
from kproxy.ingress.nginx_text.syntax import Block, Directive, Statement
from kproxy.model import addresses, names

Upstream = Callable[[names.ServicePortName], Sequence[addresses.SocketAddress]]
"""Where the connections for a service port go; nowhere yet, or no more, if that is empty."""

_IDLE_CONNECTIONS = 32
"""Kept open to each upstream by each worker."""

_REQUESTS = {
    table.Protocol.HTTP: 100,
    table.Protocol.HTTPS: 100,
    table.Protocol.GRPC: 8,
    table.Protocol.GRPCS: 8,
}
"""On one connection, which has one endpoint for its whole life: kproxy balances connections. From a
hundred on, new ones cost nothing that can be measured. In gRPC nginx cannot ask for one request
only, as it does in HTTP while there are few clients."""

_Used: TypeAlias = tuple[Sequence[addresses.SocketAddress], int]

_SCHEMES = {
    table.Protocol.HTTP: "http",
    table.Protocol.HTTPS: "https",
    table.Protocol.GRPC: "grpc",
    table.Protocol.GRPCS: "grpcs",
}


class Upstreams:
    """The upstreams that a configuration uses, by the addresses there are.

    `frontends` are the service ports whose address refuses connections while no endpoint is ready.

    nginx keeps connections open, and would send one protocol on a connection that was made for
    another: so a service port has an upstream for each protocol.
    """

    def __init__(
        self,
        known: Mapping[names.ServicePortName, Sequence[addresses.SocketAddress]],
        frontends: Collection[names.ServicePortName],
    ) -> None:
        self._known = known
        self._frontends = frontends
        self._used: dict[str, _Used] = {}

    def name(self, target: names.ServicePortName | None, protocol: table.Protocol) -> str:
        """The name of an upstream that is used from now on; "" if it has no address."""
        found = self._known.get(target) if target is not None else None
        if target is None or not found:
            return ""
        # Labels of DNS, which have no dot; "only" is a port that has no name. What differs most is
        # first: nginx compares each name with all others.
        service = target.service
        name = f"{service.name}.{service.namespace}.{target.port or 'only'}.{_SCHEMES[protocol]}"
        self._used[name] = (found, _REQUESTS[protocol])
        return name

    def is_frontend(self, target: names.ServicePortName | None) -> bool:
        """Whether a connection that is refused there means that no endpoint is ready."""
        return target in self._frontends

    def blocks(self) -> Iterator[Statement]:
        """The upstreams that are used, in the order of their names."""
        return (_block(name, *self._used[name]) for name in sorted(self._used))


def _block(name: str, found: Sequence[addresses.SocketAddress], requests: int) -> Block:
    # kproxy knows which endpoints are well: nginx must not believe that all are ill.
    servers = [Directive("server", str(each), "max_fails=0") for each in found]
    return Block(
        Directive("upstream", name),
        [
            *servers,
            Directive("keepalive", _IDLE_CONNECTIONS),
            Directive("keepalive_requests", requests),
        ],
    )


def scheme(protocol: table.Protocol) -> str:
    """As in the URL of `proxy_pass` and `grpc_pass`."""
    return _SCHEMES[protocol]
