"""How many connections each backend of a service port has: what the counting strategies read.

The counters in `kproxy.metrics` count a connection once it has reached its backend. A strategy
needs it from the pick on: sixteen clients that are accepted in one event are picked for before the
first of them is connected. So a data path that was given `Loads` counts each dial, and the
connection it becomes, until its end. Without such a strategy there are no `Loads`.
"""

import weakref
from typing import Protocol

from kproxy.model import addresses


class Watcher(Protocol):
    """Is called when the number of connections to a backend changes."""

    def load_changed(self, load: "Load", /) -> None:
        """`load.count` has changed. Must not join or leave a load."""

    def penalty_changed(self, load: "Load", /) -> None:
        """The backend is in the penalty box now, or no longer. Must not join or leave a load."""


class Load:
    """The connections of one service port to one backend, dials that are under way included."""

    __slots__ = ("__weakref__", "count", "watchers")

    def __init__(self) -> None:
        self.count = 0
        self.watchers: list[Watcher] = []
        """One for each scope of the service port that has the backend."""

    def join(self) -> None:
        """One more."""
        self.count += 1
        for each in self.watchers:
            each.load_changed(self)

    def leave(self) -> None:
        """Count one connection less. Call once for each `join`."""
        self.count -= 1
        for each in self.watchers:
            each.load_changed(self)

    def penalty_changed(self) -> None:
        """A member that holds this has been boxed or freed."""
        for each in self.watchers:
            each.penalty_changed(self)


class Loads:
    """The loads of one service port, by backend.

    A load lives as long as a member or a connection holds it: a backend that leaves the set and
    returns has the connections that it kept.
    """

    __slots__ = ("_of",)

    def __init__(self) -> None:
        # Made when it is needed: most strategies count nothing.
        self._of: weakref.WeakValueDictionary[addresses.SocketAddress, Load] | None = None

    def of(self, backend: addresses.SocketAddress) -> Load:
        """The load of a backend, made at the first call."""
        if self._of is None:
            self._of = weakref.WeakValueDictionary()
        found = self._of.get(backend)
        if found is None:
            found = self._of[backend] = Load()
        return found

    def moved(self, held: Load | None, backend: addresses.SocketAddress) -> Load:
        """A connection that was counted in `held`, if in any, is `backend`'s from now on."""
        if held is not None:
            held.leave()
        joined = self.of(backend)
        joined.join()
        return joined
