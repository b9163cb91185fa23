"""The seam between control plane and data plane: forwarding rules as plain frozen data.

The proxier computes a rule per service port and sends a data plane the difference between two
tables, as messages; the data plane sends reports back. Everything here can cross a process
boundary: no sockets, no callables.
"""

from dataclasses import dataclass
from enum import StrEnum

from kproxy.model import addresses, names
from kproxy.model.kinds import services


class FrontendKind(StrEnum):
    """What sort of address a frontend is; the words of `kproxy get services -o json`."""

    CLUSTER_IP = "cluster-ip"
    NODE_PORT = "node-port"
    EXTERNAL_IP = "external-ip"
    LOAD_BALANCER = "load-balancer"


class Scope(StrEnum):
    """Which endpoints a frontend's connections may reach, after the traffic policies."""

    CLUSTER = "cluster"
    LOCAL = "local"


class FrontendState(StrEnum):
    """What has become of a frontend; the words of `kproxy get services`."""

    BOUND = "bound"
    """Clients are served."""
    NO_ENDPOINTS = "no-endpoints"
    """Connections are refused, because no endpoint could take them."""
    COLLISION = "collision"
    """Its address belongs to another service port."""
    UNAVAILABLE = "unavailable"
    """It cannot be bound. Where another attempt may succeed, it is made."""
    OVER_BUDGET = "over-budget"
    """It is beyond a bound: `--max-listeners` or one of its kind."""
    REFUSED = "refused"
    """Serving it could take traffic from its rightful server."""
    NOT_SERVED = "not-served"
    """It is not for this proxy."""


@dataclass(frozen=True, slots=True, order=True)
class Frontend:
    """One virtual address of a service port. `address` is "" for a node port: every node's."""

    kind: FrontendKind
    address: str
    port: int
    scope: Scope = Scope.CLUSTER


@dataclass(frozen=True, slots=True)
class Policy:
    """How endpoints are chosen. `affinity_seconds` is None without ClientIP affinity."""

    strategy: services.Strategy = services.Strategy.ROUND_ROBIN
    affinity_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Everything a data plane needs to serve one service port.

    `cluster` and `local` are the backends of the two scopes, after readiness, the terminating
    fallback and the address filter. A frontend whose scope has no backends does not listen.
    """

    name: names.ServicePortName
    frontends: tuple[Frontend, ...]
    policy: Policy
    cluster: tuple[addresses.SocketAddress, ...]
    local: tuple[addresses.SocketAddress, ...] = ()

    def backends(self, scope: Scope) -> tuple[addresses.SocketAddress, ...]:
        """The backends that a frontend of `scope` balances over."""
        return self.local if scope is Scope.LOCAL else self.cluster


@dataclass(frozen=True, slots=True)
class SetBackends:
    """Balance `name` over these backends by this policy; keeps what did not change."""

    name: names.ServicePortName
    policy: Policy
    cluster: tuple[addresses.SocketAddress, ...]
    local: tuple[addresses.SocketAddress, ...]


@dataclass(frozen=True, slots=True)
class OpenFrontend:
    """Listen on `address` for connections to `frontend` of `name`, whose backends are set."""

    name: names.ServicePortName
    frontend: Frontend
    address: addresses.SocketAddress


@dataclass(frozen=True, slots=True)
class CloseFrontend:
    """Stop listening on `address`; connections it accepted go on.

    Does nothing if nothing listens there, because it could not be opened.
    """

    address: addresses.SocketAddress


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop all that is remembered of `name`; its frontends are closed already."""

    name: names.ServicePortName


@dataclass(frozen=True, slots=True)
class Bar:
    """kproxy itself listens on `address`, for `owner`, which is no service port: no endpoint.

    0.0.0.0 and :: stand for every address of this host.
    """

    address: addresses.SocketAddress
    owner: str


Message = SetBackends | OpenFrontend | CloseFrontend | Forget | Bar


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to an `OpenFrontend`: clients of `address` are accepted."""

    address: addresses.SocketAddress


@dataclass(frozen=True, slots=True)
class OpenFailed:
    """The answer to an `OpenFrontend`: `address` cannot be bound, with the reason in words."""

    address: addresses.SocketAddress
    reason: str


Report = Opened | OpenFailed
"""What a data plane says unasked. Each `OpenFrontend` is answered once, in their order."""
