"""What a data path is given where a strategy goes by the connections that each backend has.

`kproxy.balancer.loads` satisfies this.
"""

from typing import Any, Protocol

from kproxy.model import addresses


class Load(Protocol):
    """The connections to one backend."""

    def leave(self) -> None:
        """One that was counted has ended."""


class Loads(Protocol):
    """Counts the connections or flows to each backend of a service port, from the dial on."""

    def moved(self, held: Any, backend: addresses.SocketAddress, /) -> Load:
        """A connection is dialled to `backend`. `held` is what this gave at its dial before."""
