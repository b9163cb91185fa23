"""The load balancer in front of the nodes, inside the client: who is tried, and in which order.

The articles have an SLB there, or several DNS records. Both come to this: nodes take turns, one
that fails its health checks gets nothing, and a request that got no answer is sent to another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

UNHEALTHY_AFTER = 2
"""Health checks in a row that fail before a node is taken out; one that succeeds takes it back."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node as its clients know it."""

    name: str
    address: str
    port: int


class Balancer:
    """Gives out nodes in turn; those that are known to be away come last."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        self._turn = 0
        self._misses = dict.fromkeys(self.nodes, 0)

    def order(self) -> list[Node]:
        """All nodes in the order in which a request tries them: healthy ones first, in turn."""
        start = self._turn
        self._turn = (self._turn + 1) % len(self.nodes)
        rotated = self.nodes[start:] + self.nodes[:start]
        return sorted(rotated, key=lambda node: not self.is_healthy(node))

    def attempts(self) -> Iterator[Node]:
        """The nodes that one request tries, one after another, without end.

        Each is the one, of those that are healthy at that moment, that it has tried least.
        """
        order = self.order()
        tried = dict.fromkeys(order, 0)
        while True:
            chosen = min(order, key=lambda node: (not self.is_healthy(node), tried[node]))
            tried[chosen] += 1
            yield chosen

    def is_healthy(self, node: Node) -> bool:
        """Whether it gets requests."""
        return self._misses[node] < UNHEALTHY_AFTER

    def checked(self, node: Node, *, is_well: bool) -> None:
        """Note the result of a health check."""
        self._misses[node] = 0 if is_well else self._misses[node] + 1

    def broke_off(self, node: Node) -> None:
        """Note that a connection to it ended in the middle, as all do when its proxy is killed."""
        self._misses[node] += 1

    def refused(self, node: Node) -> None:
        """Note that it refused a connection: nothing listens there, so the next check decides."""
        self._misses[node] = UNHEALTHY_AFTER
