"""A backend's membership in one balancer, from the update that adds it to the one without it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kproxy.model import addresses

if TYPE_CHECKING:
    from kproxy.balancer import loads


class Member:
    """One stay of a backend in a balancer's set.

    A backend that leaves and returns is a new member. So a reference to the old one is out of date
    if its `alive` is false, and need not be searched for (docs/faults.md A05).
    """

    __slots__ = ("alive", "backend", "barred", "boxed", "clients", "listed", "load", "weight")

    def __init__(
        self, backend: addresses.SocketAddress, *, boxed: bool = False, weight: int = 1
    ) -> None:
        self.backend = backend
        self.alive = True
        """Whether the backend is in the set. Once False, never True again."""
        self.boxed = boxed
        """Whether the backend is in the penalty box, or not usable."""
        self.barred = False
        """Whether the backend is one of kproxy's own addresses, which are never dialled."""
        self.listed = False
        """Whether the backend is in the rotation: not before the update that adds it is done."""
        self.clients = 0
        """How many entries of the balancer's affinity table point here."""
        self.weight = weight
        """Its share of new connections in proportion to the other members'; 0 for none."""
        self.load: loads.Load | None = None
        """The connections to the backend; None unless a strategy counts them."""

    @property
    def is_usable(self) -> bool:
        """Whether new connections may go here at all."""
        return self.weight > 0 and not self.barred


def hold_loads(members: Iterable[Member], counted: "loads.Loads") -> None:
    """Have each member hold its load, for a strategy that counts."""
    for each in members:
        if each.load is None:
            each.load = counted.of(each.backend)
