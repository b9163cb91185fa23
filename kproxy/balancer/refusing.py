"""A share of the clients that is turned away, for backends of a route that cannot be used.

The Gateway API has connections to a backend that does not exist, or has no endpoints, rejected
in proportion to its weight, and not given to the others.
"""

from collections.abc import Sequence

from kproxy.balancer import balancer
from kproxy.model import addresses


class RefusingPicker:
    """Turns away `refused` of `total` clients, evenly spread; `others` picks for the rest.

    Satisfies `connection.Picker`.
    """

    __slots__ = ("_credit", "_others", "_refused", "_total")

    def __init__(self, others: balancer.ServicePortBalancer, refused: int, total: int) -> None:
        self._others = others
        self._refused = refused
        self._total = total
        self._credit = total // 2

    def pick(self, client: str, now: float) -> addresses.SocketAddress | None:
        """None for a client that is turned away."""
        self._credit += self._refused
        if self._credit >= self._total:
            self._credit -= self._total
            return None
        return self._others.pick(client, now)

    def repick(
        self, client: str, tried: Sequence[addresses.SocketAddress], now: float
    ) -> addresses.SocketAddress | None:
        """A client that was let in once is not turned away."""
        return self._others.repick(client, tried, now)

    def has_alternative(self, client: str, tried: Sequence[addresses.SocketAddress]) -> bool:
        """As without those that are turned away."""
        return self._others.has_alternative(client, tried)

    def may_keep(self, client: str, backend: addresses.SocketAddress) -> bool:
        """As without those that are turned away."""
        return self._others.may_keep(client, backend)
