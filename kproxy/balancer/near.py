"""Clients on this node: the external Local policy gives them the endpoints of all nodes.

The policy keeps a client's traffic from a second hop. A client on the node itself has had no first
one, so kube-proxy gives it the endpoints of the whole cluster (`KUBE-EXT` chains: `-s` of the pods'
network, and `--src-type LOCAL`; docs/behaviour.md row 27).
"""

from collections.abc import Iterable, Sequence

from kproxy.balancer import balancer
from kproxy.model import addresses


class Near:
    """The networks whose clients are near."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self.set(networks)

    def set(self, networks: Iterable[str]) -> None:
        """Replace the networks, given as CIDRs."""
        listed = tuple(networks)
        self.is_empty = not listed
        self.holds = addresses.holder(listed)
        """Whether a client's address is near."""


class NearPicker:
    """Picks for a frontend of the external Local policy. Satisfies `connection.Picker`."""

    __slots__ = ("_address", "_everywhere", "_here", "_near")

    def __init__(
        self,
        near: Near,
        address: str,
        everywhere: balancer.ServicePortBalancer,
        here: balancer.ServicePortBalancer,
    ) -> None:
        """Of the frontend at `address`."""
        self._near = near
        self._address = address
        self._everywhere = everywhere
        self._here = here

    def pick(self, client: str, now: float) -> addresses.SocketAddress | None:
        """As the balancer for this client does."""
        return self._for(client).pick(client, now)

    def repick(
        self, client: str, tried: Sequence[addresses.SocketAddress], now: float
    ) -> addresses.SocketAddress | None:
        """As the balancer for this client does."""
        return self._for(client).repick(client, tried, now)

    def has_alternative(self, client: str, tried: Sequence[addresses.SocketAddress]) -> bool:
        """As the balancer for this client does."""
        return self._for(client).has_alternative(client, tried)

    def may_keep(self, client: str, backend: addresses.SocketAddress) -> bool:
        """As the balancer for this client does."""
        return self._for(client).may_keep(client, backend)

    def _for(self, client: str) -> balancer.ServicePortBalancer:
        near = self._near
        # A host connects to an address of its own from that very address.
        is_near = near.holds(client) or (client == self._address and not near.is_empty)
        return self._everywhere if is_near else self._here
