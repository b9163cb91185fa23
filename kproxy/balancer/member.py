"""A backend's membership in one balancer, from the update that adds it to the one without it."""

from kproxy.model import addresses


class Member:
    """One stay of a backend in a balancer's set.

    A backend that leaves and returns is a new member. So a reference to the old one is out of date
    if its `alive` is false, and need not be searched for (docs/faults.md A05).
    """

    __slots__ = ("alive", "backend", "barred", "boxed", "clients")

    def __init__(self, backend: addresses.SocketAddress, *, boxed: bool = False) -> None:
        self.backend = backend
        self.alive = True
        """Whether the backend is in the set. Once False, never True again."""
        self.boxed = boxed
        """Whether the backend is in the penalty box, or barred."""
        self.barred = False
        """Whether the backend is one of kproxy's own addresses, which are never dialled."""
        self.clients = 0
        """How many entries of the balancer's affinity table point here."""
