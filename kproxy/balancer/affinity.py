"""ClientIP session affinity: which backend a client was last sent to, and how long that holds.

The window slides on *new connections*, as in kube-proxy's userspace balancer and as the net
effect of iptables' `recent` rules; traffic on an open connection refreshes nothing
(docs/behaviour.md section 2, items 4 and 7). Unlike theirs the table is bounded, and
never scanned: all entries share one window and every hit moves its entry to the end, so the
order of use *is* the order of expiry, and what has expired is taken from the front, a few
entries per operation.
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from kproxy.balancer import member
from kproxy.model import addresses

DEFAULT_MAX_CLIENTS = 65536

SWEEP = 2
"""Most void entries that one operation removes: more than it can add."""


class Binding(NamedTuple):
    """One client's affinity, as `kproxy get affinity` shows it."""

    client: str
    backend: addresses.SocketAddress
    seconds_left: float


class AffinityTable:
    """Client IP → member, for one balancer. At most `max_clients` entries are ever held.

    A binding holds while less than `ttl` seconds have passed since the client's last new
    connection; upstream compares `int(elapsed) < ttl`, which says the same of a whole number
    of seconds. It ends at once when its member leaves the set. The table is in memory alone: a
    restart forgets it (docs/faults.md A09).

    `now` must not run backwards. If it does by a little, some entries are freed late; nothing
    else is affected.
    """

    __slots__ = (
        "_dead",
        "_entries",
        "_sweep_at",
        "_ttl",
        "evicted",
        "expired",
        "max_clients",
    )

    def __init__(self, ttl: int, max_clients: int = DEFAULT_MAX_CLIENTS) -> None:
        if max_clients < 1:
            raise ValueError(f"max_clients is {max_clients}; it must be at least 1")
        self.max_clients = max_clients
        self.evicted = 0
        """Bindings that were still good, dropped to make room: their clients may move."""
        self.expired = 0
        """Entries removed because their window ran out or their backend had left."""
        # client → (member, time of the last new connection), the least recently used first.
        # A fresh tuple per hit costs less than an object with attributes costs per miss.
        self._entries: OrderedDict[str, tuple[member.Member, float]] = OrderedDict()
        self._dead = 0
        self._ttl = ttl
        self._sweep_at = -math.inf  # never later than when the first entry becomes worthless

    def __len__(self) -> int:
        """Clients bound to a member of the set; the expired ones count until they are removed."""
        return len(self._entries) - self._dead

    @property
    def held(self) -> int:
        """Entries that take up memory, those of departed members included."""
        return len(self._entries)

    @property
    def ttl(self) -> int:
        """The window in seconds. A change takes effect at once, on existing entries too.

        An entry that had outlived a shorter window and was not yet removed holds again under a
        longer one: its client returns to where it had been.
        """
        return self._ttl

    @ttl.setter
    def ttl(self, seconds: int) -> None:
        self._ttl = seconds
        self._sweep_at = -math.inf

    def lookup(self, client: str, now: float) -> member.Member | None:
        """The member that `client` is bound to, whose window restarts; None if it is not bound."""
        if now >= self._sweep_at:
            self.sweep(now)
        entries = self._entries
        entry = entries.get(client)
        if entry is None:
            return None
        bound_to, used = entry
        if now - used >= self._ttl or not bound_to.alive:
            return None
        entries[client] = (bound_to, now)
        entries.move_to_end(client)
        return bound_to

    def bind(self, client: str, new: member.Member, now: float) -> None:
        """Bind `client` to `new`, a living member, whatever it was bound to before.

        In a full table the client that has been away longest loses its binding. Entries of
        departed members take up room until it is their turn.
        """
        if now >= self._sweep_at:
            self.sweep(now)
        entries = self._entries
        old = entries.get(client)
        if old is not None:
            self._release(old[0])
            entries.move_to_end(client)
        elif len(entries) >= self.max_clients:
            # The sweep has left a good entry at the front, or has made room.
            _, (evicted, _) = entries.popitem(last=False)
            self._release(evicted)
            self.evicted += 1
        entries[client] = (new, now)
        new.clients += 1

    def retire(self, gone: member.Member) -> None:
        """`gone` has left the set: none of its bindings holds any longer. O(1)."""
        gone.alive = False
        self._dead += gone.clients
        self._sweep_at = -math.inf

    def sweep(self, now: float, limit: int = SWEEP) -> int:
        """Remove at most `limit` void entries from the front; returns how many were removed.

        Every operation does some of this. A caller with time to spare may do more, to free the
        memory of a service port that no client connects to.
        """
        entries = self._entries
        for removed in range(limit):
            if not entries:
                self._sweep_at = now + self._ttl
                return removed
            bound_to, used = entries[next(iter(entries))]
            if now - used < self._ttl and bound_to.alive:
                self._sweep_at = used + self._ttl
                return removed
            entries.popitem(last=False)
            self._release(bound_to)
            self.expired += 1
        return limit

    def peek(self, client: str, now: float) -> Binding | None:
        """Where `client` is bound, whose window goes on as it was; None if it is not bound."""
        bound_to, used = self._entries.get(client, (None, 0.0))
        left = used + self._ttl - now
        if bound_to is None or left <= 0 or not bound_to.alive:
            return None
        return Binding(client, bound_to.backend, left)

    def bindings(self, now: float, limit: int) -> Iterator[Binding]:
        """At most `limit` of the bindings that hold, the most recently used first.

        The order is that of this call, and each binding is as it stands when its turn comes: the
        table may change in between.
        """
        newest = reversed(self._entries)
        clients = list(itertools.islice(newest, limit + min(limit, self._dead)))
        found = (self.peek(client, now) for client in clients)
        return itertools.islice((each for each in found if each is not None), limit)

    def _release(self, bound_to: member.Member) -> None:
        if bound_to.alive:
            bound_to.clients -= 1
        else:
            self._dead -= 1
