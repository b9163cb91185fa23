"""End connections that have lived long enough: too old, or their endpoint is removed.

A proxy of bytes cannot ask a client to reconnect, as a server of a known protocol can. What it can
do in order is to say to the *endpoint* that no more will come, at a quiet moment: FIN, as if the
client had sent it. A server that idles then closes, its FIN goes to the client, and the promise
holds for the client: it sees a clean end only after all that the endpoint sent. To send FIN to the
client instead would make a cut answer look whole.

A moment is quiet when no byte has moved for a while, none is on its way, and the endpoint sent
last: no client waits for an answer. If no such moment comes, or the endpoint keeps sending, both
sides are reset when the grace is over. They are also reset when the client sends more, because its
bytes can no longer be delivered.

Only the connections of Services that ask for this are known here (`Roll`). All others cost one
attribute test when they reach an endpoint, and one when they end.
"""

import asyncio
import math
import random
import time
from collections.abc import Collection, Iterator
from typing import Final

from kproxy import events
from kproxy.datapath import syscalls
from kproxy.datapath.tcp import connection, halfclose, sharing
from kproxy.model import addresses, lifetimes, steps

TICK: Final = 0.25
_NEXT_SLICE: Final = 0.008
_BUDGET: Final = 0.002
"""Seconds of work in one slice; the next one comes after `_NEXT_SLICE` while some is left."""
QUIET: Final = 1.0
"""Seconds without a byte that make a moment quiet; half of the grace if that is less."""
JITTER: Final = 0.1
"""Ages differ by this part, downwards: otherwise all clients of a restart come back at once."""

GONE: Final = 1.0
"""Seconds after which an endpoint that is gone is gone for good: one that moves from one
EndpointSlice to another may be in neither for a moment."""

_ACTIONS = lifetimes.OnEndpointRemoved


class _Ending:
    """A connection that is to end: until when in order, and the reasons that are counted."""

    __slots__ = ("deadline", "in_order", "is_fin_sent", "quiet", "reset", "seen", "since")

    def __init__(
        self, now: float, grace: float, in_order: halfclose.Reason, reset: halfclose.Reason
    ) -> None:
        self.deadline = now + grace
        self.quiet = min(QUIET, grace / 2)
        self.in_order = in_order
        self.reset = reset
        self.seen: tuple[int, int] | None = None
        self.since = now
        """When the last byte was seen to move."""
        self.is_fin_sent = False
        """The endpoint has been sent FIN."""


class Roll:
    """The connections of one service port that have reached an endpoint, and what holds for them.

    Satisfies `connection.Roll`.
    """

    __slots__ = (
        "_keeper",
        "connections",
        "is_changed",
        "is_new",
        "is_over",
        "lifetime",
        "next_look",
        "present",
        "terms",
    )

    def __init__(self, keeper: "Keeper", terms: connection.Terms) -> None:
        self._keeper = keeper
        self.terms = terms
        self.connections: dict[connection.Connection, tuple[float, float]] = {}
        """When each reached its endpoint, oldest first; and its part of the jitter."""
        self.lifetime = lifetimes.UNLIMITED
        self.present: Collection[addresses.SocketAddress] = ()
        """The endpoints that are not removed."""
        self.is_new = True
        """Connections that were open before are not known yet."""
        self.is_changed = False
        """The lifetime is another one than when open connections were last looked at."""
        self.next_look = 0.0
        """Before this moment no connection is too old."""
        self.is_over = False
        """The service port is gone."""

    def enter(self, conn: connection.Connection) -> None:
        """A connection has reached its endpoint; which may have been removed during the dial."""
        keeper = self._keeper
        self.connections[conn] = keeper.now, keeper.random()
        if self.lifetime.max_age is not None:
            keeper.wake()
        if conn.backend not in self.present:
            keeper.remove(self, conn)

    def due(self, conn: connection.Connection) -> float:
        """The moment when a connection is too old; infinity if never."""
        age = self.lifetime.max_age
        reached, jitter = self.connections[conn]
        return math.inf if age is None else reached + age * (1 - JITTER * jitter)

    def leave(self, conn: connection.Connection) -> None:
        """A connection has ended."""
        self.connections.pop(conn, None)
        self._keeper.forget(conn)


class Keeper:
    """Keeps the lifetimes of the connections of one data path. Owns a timer, no connection."""

    def __init__(self, shared: sharing.Shared, rng: random.Random | None = None) -> None:
        self._shared = shared
        self._poller = shared.poller
        self.random = (rng or random.Random()).random
        self._rolls: dict[Roll, None] = {}
        self._unsettled: dict[Roll, None] = {}
        self._ending: dict[connection.Connection, _Ending] = {}
        self.feed: events.Feed | None = None
        """Where it is recorded that connections begin to end."""
        self._work: Iterator[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def now(self) -> float:
        """Monotonic seconds."""
        return self._poller.now

    def close(self) -> None:
        """Stop the timer. Every connection must have ended by now."""
        if self._timer is not None:
            self._timer.cancel()
        self._rolls.clear()

    def state(self, conn: connection.Connection) -> str:
        """What a connection is doing, in a word for people."""
        ending = self._ending.get(conn)
        if ending is None:
            return conn.state
        return "draining" if ending.in_order == halfclose.REMOVED else "aging-out"

    def follow(
        self,
        terms: connection.Terms,
        lifetime: lifetimes.Lifetime,
        present: Collection[addresses.SocketAddress],
    ) -> None:
        """From now on the connections on these terms live so long, and no endpoints but the
        `present` ones are there.

        What this means for open connections is found out in slices. Those that were to end, and
        need not any more, go on; what has been said to an endpoint cannot be taken back.
        """
        roll = terms.roll
        if not isinstance(roll, Roll):
            if not lifetime.is_limited:
                return
            roll = terms.roll = Roll(self, terms)
        roll.is_changed = roll.is_changed or roll.lifetime != lifetime
        roll.lifetime, roll.present, roll.next_look = lifetime, present, 0.0
        if not lifetime.is_limited:
            terms.roll = None
        if lifetime.max_age is None:
            self._rolls.pop(roll, None)
        else:
            self._rolls[roll] = None
        self._unsettled[roll] = None
        self._schedule(0.0)

    def part(self, terms: connection.Terms) -> None:
        """The service port is gone, and its endpoints with it; its connections may go on."""
        roll = terms.roll
        if isinstance(roll, Roll):
            roll.is_over = True
            self.follow(terms, roll.lifetime, ())

    def remove(self, roll: Roll, conn: connection.Connection) -> bool:
        """The endpoint of `conn` is removed. Whether that ends it, or ends it sooner."""
        action = roll.lifetime.on_removed
        if action is _ACTIONS.KEEP:
            return False
        is_reset = action is _ACTIONS.RESET
        grace = GONE if is_reset else roll.lifetime.drain
        known = self._ending.get(conn)
        if known is not None and known.deadline <= self.now + grace:
            return False
        if known is not None and known.is_fin_sent:
            if not is_reset:
                return False
            known.deadline, known.reset = self.now + grace, halfclose.REMOVED_RESET
            return True
        ending = self._begin(conn, grace, halfclose.REMOVED, halfclose.REMOVED_RESET)
        if is_reset:
            ending.quiet = math.inf
        return True

    def forget(self, conn: connection.Connection) -> None:
        """`conn` has ended."""
        self._ending.pop(conn, None)

    def wake(self) -> None:
        """Schedule a slice of work."""
        if self._timer is None:
            self._schedule(TICK)

    def _schedule(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay, self._run)

    def _begin(
        self,
        conn: connection.Connection,
        grace: float,
        in_order: halfclose.Reason,
        reset: halfclose.Reason,
    ) -> _Ending:
        ending = self._ending[conn] = _Ending(self.now, grace, in_order, reset)
        ending.seen = _totals(conn)
        self.wake()
        return ending

    def _enter_open(self, roll: Roll) -> Iterator[None]:
        """Find the connections that were open before anything was asked for, oldest first.

        Those that reach their endpoint meanwhile enter by themselves.
        """
        found = []
        for run in steps.runs(list(self._poller.handlers())):
            for handler in run:
                conn = connection.of_client(handler)
                if conn is not None and conn.server is not None and conn.target.terms is roll.terms:
                    found.append(conn)
            yield
        found.sort(key=lambda conn: conn.accepted_at)
        newer = roll.connections
        roll.connections = {
            conn: (conn.accepted_at, self.random())
            for conn in found
            if conn.is_open and conn not in newer
        }
        roll.connections.update(newer)

    def _settle(self, roll: Roll) -> Iterator[None]:
        """Apply changed rules or endpoints to the open connections."""
        if roll.is_new:
            roll.is_new = False
            yield from self._enter_open(roll)
        is_changed, roll.is_changed = roll.is_changed, False
        moved = 0
        for run in steps.runs(list(roll.connections)):
            for conn in run:
                if conn.is_open:
                    moved += self._reconsider(roll, conn, is_changed=is_changed)
            yield
        if moved and self.feed is not None:
            action = roll.lifetime.on_removed.value
            self.feed.record(events.ConnectionsMoved(self.now, roll.terms.name, action, moved))

    def _reconsider(self, roll: Roll, conn: connection.Connection, *, is_changed: bool) -> bool:
        """Whether `conn` begins to end because its endpoint is removed."""
        is_removed = conn.backend not in roll.present
        ending = self._ending.get(conn)
        if ending is not None and not ending.is_fin_sent:
            is_drained = ending.in_order == halfclose.REMOVED
            if is_changed or (is_drained and not is_removed):
                del self._ending[conn]  # the next look finds again what is too old
        return is_removed and self.remove(roll, conn)

    def _run(self) -> None:
        """Work for a slice. I/O comes first: after a pause of the process, bytes may be waiting."""
        self._timer = None
        self._poller.turn()
        ends = time.monotonic() + _BUDGET
        if self._work is None:
            self._work = self._round()
        for _ in self._work:
            if time.monotonic() >= ends:
                self._schedule(_NEXT_SLICE)
                return
        self._work = None
        if self._unsettled:
            self._schedule(0.0)
        elif self._ending or self._rolls:
            self.wake()

    def _round(self) -> Iterator[None]:
        """Visit every connection once, in steps."""
        while self._unsettled:
            roll, _ = self._unsettled.popitem()
            yield from self._settle(roll)
        for roll in list(self._rolls):
            if roll.is_over and not roll.connections:
                self._rolls.pop(roll, None)
            elif roll.next_look <= self.now:
                yield from self._find_old(roll)
        for conn in list(self._ending):
            ending = self._ending.get(conn)
            if ending is not None:
                try:
                    self._look(conn, ending)
                except Exception:
                    self._poller.note_bug()
                    conn.abort(halfclose.BUG)
                yield

    def _find_old(self, roll: Roll) -> Iterator[None]:
        """Begin to end what is too old, in steps."""
        age = roll.lifetime.max_age
        if age is None:
            return
        now = self.now
        roll.next_look = math.inf
        # New ones come at the end: they are not due before this.
        next_look = now + age * (1 - JITTER)
        for run in steps.runs(list(roll.connections.items())):
            for conn, (reached, _) in run:
                if conn not in roll.connections:
                    continue  # it has ended meanwhile
                due = roll.due(conn)
                if due > now:
                    next_look = min(next_look, due)
                    earliest = reached + age * (1 - JITTER)
                    if earliest > now:  # and all that follow are due later than that
                        roll.next_look = min(roll.next_look, next_look, earliest)
                        return
                elif conn not in self._ending:
                    grace = roll.lifetime.age_grace
                    self._begin(conn, grace, halfclose.AGED, halfclose.AGED_RESET)
            yield
        roll.next_look = min(roll.next_look, next_look)  # 0 if what holds has changed meanwhile

    def _look(self, conn: connection.Connection, ending: _Ending) -> None:
        """End a connection whose time has come, if now is the moment."""
        now = self.now
        if not conn.is_open:  # it ended after its Service had stopped asking
            del self._ending[conn]
        elif now >= ending.deadline:
            conn.abort(ending.reset)
        elif ending.is_fin_sent:
            if self._shared.kernel.unread(conn.client.fd):
                conn.abort(ending.reset)
        elif conn.reason is None:
            seen = _totals(conn)
            if seen != ending.seen:
                ending.seen, ending.since = seen, now
            elif now - ending.since >= ending.quiet and self._is_quiet(conn):
                ending.is_fin_sent = True
                conn.client.end_here()
                if conn.is_open:
                    conn.reason = ending.in_order

    def _is_quiet(self, conn: connection.Connection) -> bool:
        """Whether nothing is under way, and the endpoint spoke last."""
        client, server = conn.client, conn.server
        assert server is not None
        kernel = self._shared.kernel
        for leg in (client, server):
            is_kept = leg.unsent is not None or (leg.pipe is not None and leg.pipe.filled)
            if is_kept or leg.eof or leg.failed or leg.blocked or self._poller.is_waiting(leg):
                return False
            if kernel.unsent(leg.fd) or kernel.unread(leg.fd):
                return False
        if client.total and not server.total:
            return False
        return syscalls.silent_for(server.sock) <= syscalls.silent_for(client.sock)


def _totals(conn: connection.Connection) -> tuple[int, int]:
    """Bytes that have come from each side."""
    return conn.client.total, conn.server.total if conn.server is not None else 0
