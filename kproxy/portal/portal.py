"""The protocol of portals: how a virtual address becomes connectable.

A portal says where a frontend is bound (`locate`), makes that place ready for a data plane to
listen on (`acquire`), and takes it back (`release`). The data plane makes the sockets itself: with
several worker processes each needs a listening socket of its own. So `acquire` returns plain data,
which can cross a process boundary: the address to listen on.

A portal that can give the clients of many frontends to one listening socket makes that socket
itself (`listeners`), and `acquire` returns its name.

Implementations are named in `portal.registry`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Protocol, TypeAlias

from kproxy.model import addresses, forwarding, names

Network: TypeAlias = IPv4Network | IPv6Network

Locate: TypeAlias = Callable[
    [names.ServicePortName, forwarding.Frontend], forwarding.PortalAddress | None
]
"""Where clients of a service port reach one of its frontends; None for nowhere."""

LOOPBACK = IPv4Network("127.0.0.0/8")
_LEAST_PREFIX = {4: 8, 6: 64}
"""Of a network of ClusterIPs: Kubernetes' clusters have none that are larger."""


_NOT_OF_SERVICES: Sequence[tuple[Network, addresses.Use]] = tuple(
    (ip_network(network), use)
    for network, use in (
        ("0.0.0.0/8", addresses.Use.UNSPECIFIED),
        ("127.0.0.0/8", addresses.Use.LOOPBACK),
        ("169.254.0.0/16", addresses.Use.LINK_LOCAL),
        ("224.0.0.0/4", addresses.Use.MULTICAST),
        ("255.255.255.255/32", addresses.Use.BROADCAST),
        ("::/128", addresses.Use.UNSPECIFIED),
        ("::1/128", addresses.Use.LOOPBACK),
        ("fe80::/10", addresses.Use.LINK_LOCAL),
        ("ff00::/8", addresses.Use.MULTICAST),
    )
)
"""Networks without addresses for Services, and what theirs are."""


def special_in(network: Network) -> str:
    """What a network holds that no Service gets, in words; "" if there is nothing."""
    for each, use in _NOT_OF_SERVICES:
        if network.version == each.version and network.overlaps(each):
            return f"{use} ({each})"
    return ""


def check_service_network(network: Network) -> None:
    """Refuse what cannot be a network of ClusterIPs: all of it would become this host's own.

    Raises ValueError.
    """
    least = _LEAST_PREFIX[network.version]
    if network.prefixlen < least:
        raise ValueError(f"must not have a network larger than /{least}, as {network} is")
    if special := special_in(network):
        raise ValueError(f"must not have {network}: it holds {special}")


class PortalName(StrEnum):
    """Values of --portal."""

    LOOPBACK = "loopback"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class NodePorts:
    """Which addresses of the node have node ports (docs/behaviour.md row 12).

    Those in `networks`; all addresses of a family without a network there. `is_primary`: only the
    address, in each family, from which the node connects to others.
    """

    networks: tuple[Network, ...] = ()
    is_primary: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The operator's settings, for every portal.

    `external_ips` are the external IPs that may be served. `node_ports` says where node ports are.
    `cluster` are the networks of the pods of this cluster, whose clients are near. `reserved` are
    addresses that no Service gets: those of the API server. A load balancer's address in 127/8, as
    the simulated cluster gives them, needs `allow_loopback`. ClusterIPs come from
    `service_networks`, if these are known. `may_use_bpf`: BPF programs may be loaded. The loopback
    portal binds in `loopback_network`, of 127/8.
    """

    external_ips: tuple[Network, ...] = ()
    node_ports: NodePorts = NodePorts()
    cluster: tuple[Network, ...] = ()
    reserved: frozenset[addresses.SocketAddress] = frozenset()
    allow_loopback: bool = False
    service_networks: tuple[Network, ...] = ()
    may_use_bpf: bool = True
    loopback_network: IPv4Network = LOOPBACK


@dataclass(frozen=True, slots=True)
class Node:
    """What a portal knows of this node: where node ports are, and which clients are on it.

    `addresses` are those of node ports, in all families. `near` are networks, as CIDRs, whose
    clients are on this node or in its cluster: under the external Local policy they reach every
    endpoint, and are not dropped without a local one (docs/behaviour.md row 27).
    `own` are all addresses of the node but loopback ones.
    """

    addresses: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    own: tuple[str, ...] = ()


class Portal(Protocol):
    """One way to make virtual addresses connectable. A proxy has one, for all its frontends."""

    @property
    def description(self) -> str:
        """Its name, and its mechanism if it has several, for `kproxy status`."""

    @property
    def families(self) -> frozenset[addresses.Family]:
        """The address families that it can serve."""

    @property
    def protocols(self) -> frozenset[names.Protocol]:
        """The transport protocols that it can serve."""

    @property
    def node(self) -> Node:
        """This node: the same object for as long as nothing has changed."""

    def follow(self, on_change: Callable[[], None], /) -> None:
        """Call `on_change` on the running event loop whenever `node` has changed, until `close`.

        Raises KproxyError if changes cannot be followed.
        """

    def locate(self, frontend: forwarding.Frontend, /) -> forwarding.PortalAddress:
        """Where `frontend` is bound: the key by which service ports claim it.

        Pure: the same frontend is always bound at the same place. Raises PortalUnavailableError
        for an address that this portal cannot serve, PortalRefusedError for one that it must not.
        """

    @property
    def listeners(self) -> Mapping[str, int]:
        """The listening sockets that frontends share: their descriptors, by name.

        They stay the portal's; a data plane gets them once, after `recover`.
        """

    def shares(self, address: forwarding.PortalAddress, /) -> bool:
        """Whether `address` will share a listening socket, and so costs no descriptor."""

    def claim(self, address: forwarding.PortalAddress, /) -> None:
        """Call when the first service port wants `address`.

        From now on this host takes the packets for it, and refuses connections while nothing
        listens: clients of a Service without endpoints get a refusal. Never raises: `acquire`
        reports what is wrong with an address.
        """

    def withdraw(self, address: forwarding.PortalAddress, /) -> None:
        """Call when no service port wants `address` any more; `release` may come later."""

    def acquire(
        self, address: forwarding.PortalAddress, admitted: forwarding.Admission, /
    ) -> forwarding.ListenOn:
        """Make `address` ready, and return what the data plane is to listen on.

        The data plane drops clients that `admitted` leaves out; a portal may drop them earlier.

        Raises OSError when that fails; nothing is acquired then, and the caller may try again.
        Call `release` at the end, also when the data plane could not listen.
        """

    def admit(self, address: forwarding.PortalAddress, admitted: forwarding.Admission, /) -> None:
        """Change the admitted clients of an acquired address. The data plane gets `Admit` next."""

    def release(self, address: forwarding.PortalAddress, /) -> None:
        """Give back an acquired address, after `CloseFrontend` or `OpenFailed`."""

    def take_ranges(self, ranges: Sequence[Network], /) -> Iterator[None]:
        """ClusterIPs come from `ranges` from now on, as the API's ServiceCIDR objects say.

        They take the place of the ranges of the call before, not of those in `Settings`. What is
        at an address that is claimed stays reachable. Yields where others can be let run. Never
        raises: a range that cannot be served is logged, and its addresses are served one by one.
        """

    def recover(self) -> None:
        """Remove what an earlier kproxy process left on this host, and nothing else.

        Called once, before the first `acquire`. Raises KproxyError when serving is impossible.
        """

    def close(self) -> None:
        """Release everything, also the addresses that are still acquired."""
