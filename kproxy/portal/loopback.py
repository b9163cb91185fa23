"""The loopback portal: every virtual address lives in 127/8, so nothing needs privileges.

ClusterIP a.b.c.d is bound as 127.b.c.d on the same port: 10.96.0.10:53 is 127.96.0.10:53. All
of 127/8 belongs to the loopback interface and any user may bind it. A port below
`net.ipv4.ip_unprivileged_port_start` that this process may not bind is moved up by 10000.

A smaller network than 127/8 leaves room for other proxies on this host: an address is bound in it
at the bits that the network leaves to hosts, so 10.96.0.10 in 127.64.0.0/16 is 127.64.0.10.

Some addresses are refused, because with them a Service's author could take traffic of other
servers:

- 127.0.0.0/24 is where this host's own servers listen (127.0.0.1; 127.0.0.53 is often its DNS).
  Node ports are bound on 127.0.0.1; an address that a Service names never is;
- an external IP is served only if the operator lists it (CVE-2020-8554);
- the API server's address;
- addresses of a load balancer that cannot be a load balancer's, such as link-local ones; those in
  127/8 are served if the operator allows loopback addresses, as for a simulated cluster.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

from kproxy import errors
from kproxy.model import addresses, forwarding, names
from kproxy.portal import portal, refusals

PORT_SHIFT = 10000
_NODE_ADDRESS = "127.0.0.1"
_CAP_NET_BIND_SERVICE = 10
_KINDS = forwarding.FrontendKind


class LoopbackPortal:
    """Maps frontends into 127/8. All of it can be bound already, so the portal keeps no state.

    `shift_below` is the first port that may be bound.
    """

    def __init__(self, shift_below: int, settings: portal.Settings | None = None) -> None:
        settings = settings or portal.Settings()
        self._shift_below = shift_below
        self._reserved = settings.reserved
        self._network = settings.loopback_network
        self._refusals = refusals.Refusals(settings)
        self.node = portal.Node((_NODE_ADDRESS,))
        """Node ports are on 127.0.0.1. No client counts as near: all are on this host, in place of
    clients elsewhere."""

    @classmethod
    def for_this_process(cls, settings: portal.Settings) -> Self:
        """A portal that moves the ports that this process may not bind."""
        return cls(first_bindable_port(), settings)

    @property
    def description(self) -> str:
        """Its name."""
        return portal.PortalName.LOOPBACK

    @property
    def families(self) -> frozenset[addresses.Family]:
        """IPv4: ::1 is the only IPv6 address on loopback."""
        return frozenset({addresses.Family.IPV4})

    @property
    def protocols(self) -> frozenset[names.Protocol]:
        """TCP and UDP."""
        return frozenset({names.Protocol.TCP, names.Protocol.UDP})

    def follow(self, on_change: Callable[[], None]) -> None:
        """Do nothing: the node never changes."""

    def locate(self, frontend: forwarding.Frontend) -> forwarding.PortalAddress:
        """Where `frontend` is bound.

        Raises PortalUnavailableError for an IPv6 address.
        Raises PortalRefusedError for an address that must not be served.
        """
        bound = self._bound(frontend)
        if bound in self._reserved:
            raise errors.PortalRefusedError(
                f"{bound} is the address of the API server: give the Service another one"
            )
        return forwarding.PortalAddress(*bound, frontend.protocol)

    @property
    def listeners(self) -> Mapping[str, int]:
        """None: every frontend has its own."""
        return {}

    def shares(self, address: forwarding.PortalAddress) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def claim(self, address: forwarding.PortalAddress) -> None:
        """Do nothing: 127/8 is always this host's own."""

    def withdraw(self, address: forwarding.PortalAddress) -> None:
        """Do nothing: `claim` did nothing."""

    def acquire(
        self,
        address: forwarding.PortalAddress,
        admitted: forwarding.Admission,  # noqa: ARG002
    ) -> addresses.SocketAddress:
        """The address itself: any user may bind it."""
        return address.socket_address

    def admit(self, address: forwarding.PortalAddress, admitted: forwarding.Admission) -> None:
        """Do nothing: the data plane drops the clients that are not admitted."""

    def release(self, address: forwarding.PortalAddress) -> None:
        """Do nothing: the portal holds nothing."""

    def take_ranges(self, ranges: Sequence[portal.Network]) -> Iterator[None]:  # noqa: ARG002
        """127/8 needs no routes."""
        return iter(())

    def recover(self) -> None:
        """Do nothing: the portal leaves nothing behind."""

    def close(self) -> None:
        """Do nothing: the portal holds nothing."""

    def _bound(self, frontend: forwarding.Frontend) -> addresses.SocketAddress:
        port = frontend.port
        if port < self._shift_below:
            port += PORT_SHIFT
        kind, address = frontend.kind, frontend.address
        if kind is _KINDS.NODE_PORT:
            if not address:
                raise errors.PortalUnavailableError(
                    f"the loopback portal has no {frontend.family} address for node ports"
                )
            return addresses.SocketAddress(address, port)
        if kind is not _KINDS.CLUSTER_IP:
            self._refusals.check_external(kind, address)
        bound = self._mapped(address)
        if bound.startswith("127.0.0."):
            raise errors.PortalRefusedError(
                f"{address} would be bound as {bound}, and 127.0.0.0/24 is kept for this "
                "host's own servers: give the Service another address"
            )
        if bound == "127.255.255.255":
            raise errors.PortalRefusedError(
                f"{address} would be bound as {bound}, which is a broadcast address: "
                "give the Service another address"
            )
        return addresses.SocketAddress(bound, port)

    def _mapped(self, address: str) -> str:
        """The address of 127/8 for that of a Service. Raises PortalUnavailableError."""
        # As text: admission has checked it.
        _, dot, rest = address.partition(".")
        if not dot:
            raise errors.PortalUnavailableError(
                f"{address} cannot be mapped into 127.0.0.0/8: "
                "give the Service an IPv4 ClusterIP to reach it through the loopback portal"
            )
        network = self._network
        if network == portal.LOOPBACK:
            return f"127.{rest}"
        return str(network[int(IPv4Address(address)) & int(network.hostmask)])


def first_bindable_port(proc: Path = Path("/proc")) -> int:
    """The lowest port this process may bind: 1 with CAP_NET_BIND_SERVICE, else the sysctl's."""
    try:
        status = (proc / "self/status").read_text()
        effective = int(status.split("CapEff:")[1].split()[0], 16)
        if effective >> _CAP_NET_BIND_SERVICE & 1:
            return 1
        return int((proc / "sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError, IndexError):
        return 1024
