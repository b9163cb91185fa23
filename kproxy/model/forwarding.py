"""The seam between control plane and data plane: forwarding rules as plain frozen data.

The proxier computes a rule per service port and sends a data plane the difference between two
tables, as messages; the data plane sends reports back. Everything here can cross a process
boundary: no sockets, no callables. Structs, because thousands are made in one sync, and a frozen
dataclass takes five times as long to make.
"""

from enum import StrEnum
from typing import NamedTuple, TypeAlias

import msgspec

from kproxy.model import addresses, lifetimes, names
from kproxy.model.kinds import services


class FrontendKind(StrEnum):
    """What sort of address a frontend is; the words of `kproxy get services -o json`."""

    CLUSTER_IP = "cluster-ip"
    NODE_PORT = "node-port"
    EXTERNAL_IP = "external-ip"
    LOAD_BALANCER = "load-balancer"
    HEALTH_CHECK = "health-check"
    """Where load balancers ask whether this node has endpoints; no connection is passed on."""


class Scope(StrEnum):
    """Which endpoints a frontend's connections may reach, after the traffic policies."""

    CLUSTER = "cluster"
    LOCAL = "local"

    # Enum's own is a call in Python, in every look-up of whatever has one of these in its key.
    __hash__ = str.__hash__


Admission: TypeAlias = tuple[str, ...] | None
"""The source addresses whose connections a frontend takes, as CIDRs; None for all.

What comes from elsewhere is dropped: the client waits until it gives up, as it does where
kube-proxy drops. An empty one drops everything.
"""


class FrontendState(StrEnum):
    """What has become of a frontend; the words of `kproxy get services`."""

    BOUND = "bound"
    """Clients are served."""
    NO_ENDPOINTS = "no-endpoints"
    """Connections are refused, because no endpoint could take them."""
    DROPPED = "dropped"
    """Connections are dropped: there are endpoints, and the traffic policy excludes them all."""
    COLLISION = "collision"
    """Its address belongs to another service port."""
    OPENING = "opening"
    """It is about to be bound, in the sync that is under way."""
    UNAVAILABLE = "unavailable"
    """It cannot be bound. Where another attempt may succeed, it is made."""
    OVER_BUDGET = "over-budget"
    """It is beyond a bound: `--max-listeners` or one of its kind."""
    REFUSED = "refused"
    """Serving it could take traffic from its rightful server."""
    NOT_SERVED = "not-served"
    """It is not for this proxy."""


class Frontend(msgspec.Struct, frozen=True, gc=False, order=True):
    """One virtual address of a service port.

    A node port is a frontend at each of the node's addresses; `address` is "" if it has none of
    `family`.
    """

    kind: FrontendKind
    address: str
    port: int
    scope: Scope = Scope.CLUSTER
    protocol: names.Protocol = names.Protocol.TCP
    family: addresses.Family = addresses.Family.IPV4

    @property
    def socket_address(self) -> addresses.SocketAddress:
        """What clients connect to."""
        return addresses.SocketAddress(self.address, self.port)

    @property
    def is_external(self) -> bool:
        """Whether clients outside the cluster use it: the external traffic policy is for these."""
        return self.kind is not FrontendKind.CLUSTER_IP


class PortalAddress(NamedTuple):
    """Where a frontend is bound: what service ports claim, and what is opened and closed."""

    address: str
    port: int
    protocol: names.Protocol = names.Protocol.TCP

    @property
    def socket_address(self) -> addresses.SocketAddress:
        """The IP address and port, for a socket of the protocol."""
        return addresses.SocketAddress(self.address, self.port)

    def __str__(self) -> str:
        """As people write it: the protocol is said where it is not TCP."""
        is_tcp = self.protocol is names.Protocol.TCP
        return f"{self.socket_address}{'' if is_tcp else f'/{self.protocol}'}"


class Policy(msgspec.Struct, frozen=True, gc=False):
    """How endpoints are chosen, and what holds for the connections to them.

    `affinity_seconds` is None without ClientIP affinity. `proxy_protocol` is None unless endpoints
    get PROXY headers.
    """

    strategy: services.Strategy = services.Strategy.ROUND_ROBIN
    affinity_seconds: int | None = None
    lifetime: lifetimes.Lifetime = lifetimes.UNLIMITED
    proxy_protocol: lifetimes.ProxyProtocol | None = None


class Pool(msgspec.Struct, frozen=True, gc=False):
    """The backends of one scope and family, in order, without duplicates.

    `weights` are those of the backends, one for one; empty if all are 1. A backend of weight 0 gets
    no new connections. Not all are 0. `refused` is the weight of clients that are turned away.
    """

    scope: Scope
    family: addresses.Family
    backends: tuple[addresses.SocketAddress, ...]
    weights: tuple[int, ...] = ()
    refused: int = 0

    @property
    def total(self) -> int:
        """The weights of all backends, and of what is turned away."""
        return (sum(self.weights) or len(self.backends)) + self.refused


def backends_of(
    pools: tuple[Pool, ...], scope: Scope, family: addresses.Family
) -> tuple[addresses.SocketAddress, ...]:
    """The backends of one scope and family; () if there are none."""
    for pool in pools:
        if pool.scope is scope and pool.family is family:
            return pool.backends
    return ()


def candidates_of(
    pools: tuple[Pool, ...], scope: Scope, family: addresses.Family
) -> tuple[addresses.SocketAddress, ...]:
    """Those of the backends of one scope and family that get new connections."""
    for pool in pools:
        if pool.scope is scope and pool.family is family:
            weighed = zip(pool.backends, pool.weights, strict=True) if pool.weights else ()
            return tuple(each for each, weight in weighed if weight) or pool.backends
    return ()


class Rule(msgspec.Struct, frozen=True, gc=False):
    """Everything a data plane needs to serve one service port.

    `pools` are the backends after readiness, the terminating fallback and the address filter;
    empty ones are left out. A frontend is served by those of its scope and its family
    (docs/behaviour.md row 39).
    """

    name: names.ServicePortName
    frontends: tuple[Frontend, ...]
    policy: Policy
    pools: tuple[Pool, ...] = ()
    spared: tuple[addresses.SocketAddress, ...] = ()
    """Endpoints in no pool whose connections go on whatever `Lifetime.on_removed` says: those that
    are not ready, for instance. Empty while it says KEEP."""

    def backends(
        self, scope: Scope, family: addresses.Family = addresses.Family.IPV4
    ) -> tuple[addresses.SocketAddress, ...]:
        """() if no pool is of that scope and family."""
        return backends_of(self.pools, scope, family)

    def fate(self, frontend: Frontend) -> FrontendState:
        """What clients of `frontend` are to meet: BOUND, NO_ENDPOINTS or DROPPED.

        kube-proxy refuses where there is no endpoint at all, and drops where only the Local policy
        excludes them (docs/behaviour.md rows 25 to 28).
        """
        if frontend.kind is FrontendKind.HEALTH_CHECK:
            return FrontendState.BOUND
        fate = FrontendState.NO_ENDPOINTS
        for pool in self.pools:
            if pool.family is frontend.family and pool.backends:
                if pool.scope is frontend.scope:
                    return FrontendState.BOUND
                if pool.scope is Scope.CLUSTER:
                    fate = FrontendState.DROPPED
        return fate


class SetBackends(msgspec.Struct, frozen=True, gc=False):
    """Balance `name` over these backends by this policy; keeps what did not change.

    Connections to backends that are in no pool and not `spared` are dealt with as the policy's
    `Lifetime.on_removed` says.
    """

    name: names.ServicePortName
    policy: Policy
    pools: tuple[Pool, ...] = ()
    spared: tuple[addresses.SocketAddress, ...] = ()


class SetNear(msgspec.Struct, frozen=True, gc=False):
    """Clients from these networks, given as CIDRs, are on this node.

    At a frontend that is external and of the scope LOCAL they get the endpoints of the whole
    cluster (docs/behaviour.md row 27). Holds for connections from now on.
    """

    networks: tuple[str, ...] = ()


class SharedListener(msgspec.Struct, frozen=True, gc=False):
    """A listening socket that several frontends share.

    It was handed to the data plane under `name`. An accepted socket's own address says which
    frontend its client meant: those with `address` are the frontend's.
    """

    name: str
    address: addresses.SocketAddress


ListenOn: TypeAlias = addresses.SocketAddress | SharedListener
"""Where the clients of a frontend come: at a listening socket of its own, or at a shared one."""


class OpenFrontend(msgspec.Struct, frozen=True, gc=False):
    """Listen for connections to `frontend` of `name`, whose backends are set.

    `address` is where the portal bound it, and the name under which it is closed. `listen_on` is
    what the portal says to listen on. What `admitted` leaves out is dropped, in the kernel; at a
    shared listener the portal does that.
    """

    name: names.ServicePortName
    frontend: Frontend
    address: PortalAddress
    listen_on: ListenOn
    admitted: Admission = None


class Admit(msgspec.Struct, frozen=True, gc=False):
    """Change whose connections `address` takes from now on, without closing it.

    Does nothing if nothing listens there.
    """

    address: PortalAddress
    admitted: Admission


class CloseFrontend(msgspec.Struct, frozen=True, gc=False):
    """Stop listening on `address`; connections it accepted go on.

    Does nothing if nothing listens there, because it could not be opened.
    """

    address: PortalAddress


class Forget(msgspec.Struct, frozen=True, gc=False):
    """Drop all that is remembered of `name`; its frontends are closed already."""

    name: names.ServicePortName


class Bar(msgspec.Struct, frozen=True, gc=False):
    """kproxy itself listens on `address`, for `owner`, which is no service port: no endpoint.

    0.0.0.0 and :: stand for every address of this host.
    """

    address: addresses.SocketAddress
    owner: str


class SetLocalEndpoints(msgspec.Struct, frozen=True, gc=False):
    """How many addresses of ready endpoints of the Service of `name` are on this node.

    It is what frontends of the kind HEALTH_CHECK say. A data plane ignores it.
    """

    name: names.ServicePortName
    counts: tuple[tuple[addresses.Family, int], ...]


Message = (
    SetLocalEndpoints | SetBackends | SetNear | OpenFrontend | Admit | CloseFrontend | Forget | Bar
)


class Opened(msgspec.Struct, frozen=True, gc=False):
    """The answer to an `OpenFrontend`: clients of `address` are accepted."""

    address: PortalAddress


class OpenFailed(msgspec.Struct, frozen=True, gc=False):
    """The answer to an `OpenFrontend`: `address` cannot be bound, with the reason in words."""

    address: PortalAddress
    reason: str


Report = Opened | OpenFailed
"""What a data plane says unasked. Each `OpenFrontend` is answered once, in their order."""
