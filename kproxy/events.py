"""What happens in a proxy, as facts, and a feed that passes them to subscribers.

A fact is plain frozen data: it says what was true at a moment and holds no part of the proxy.
Service ports are named as text, `NAMESPACE/NAME:PORT`; moments are seconds of the monotonic clock.

The feed never blocks a publisher. Each subscription has a bounded queue of its own; facts that
come while it is full are dropped and counted there. Without a subscription no fact is built: a
publisher checks `Feed.active` first, or holds the feed only while there is one (`Feed.follow`). A
publisher of many facts also checks `Feed.is_full`, and builds none while every queue is full.

Facts that are rare, because they do not come with each connection, are recorded: always built, and
the last of them are kept for callers that ask afterwards what happened.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import msgspec

QUEUE = 4096
"""Most facts that wait for one subscriber."""

RECENT = 1000
"""Most recorded facts that are kept."""

NAMED = 10
"""Most endpoints that a fact names of those that were added, and of those that were removed."""

Address: TypeAlias = tuple[str, int]
"""An IP address and a port."""


class Fact(msgspec.Struct, frozen=True, gc=False):
    """Something that was true at the moment `at`."""

    at: float


class ConnectionAccepted(Fact, frozen=True, gc=False):
    """A client was accepted; its dial begins."""

    service: str
    client: Address


class ClientNamed(Fact, frozen=True, gc=False):
    """A proxy in front of this one has said by a PROXY header that its connection is `client`'s.

    `via` is the proxy: the client of `ConnectionAccepted`, unless the proxy spoke for itself.
    """

    service: str
    client: Address
    via: Address


class Dialled(Fact, frozen=True, gc=False):
    """A client's connection reached `endpoint`, `seconds` after it was accepted."""

    service: str
    client: Address
    endpoint: Address
    seconds: float


class DialFailed(Fact, frozen=True, gc=False):
    """A dial failed because of `reason`: an errno name, "timeout", or "moved-on".

    `attempt` counts from 1. Another endpoint is tried, unless the connection ends.
    """

    service: str
    client: Address
    endpoint: Address
    reason: str
    attempt: int


class ConnectionEnded(Fact, frozen=True, gc=False):
    """A connection is over. `result` is the label of `kproxy_connections_total`, `why` its meaning.

    `endpoint` is None if none was reached; `seconds` is the time since it was accepted.
    """

    service: str
    client: Address
    endpoint: Address | None
    result: str
    why: str
    bytes_from_client: int
    bytes_from_endpoint: int
    seconds: float


class EndpointBoxed(Fact, frozen=True, gc=False):
    """An endpoint failed a dial, or refused a datagram: clients are sent elsewhere until a probe
    succeeds, or for a while where there is no probe, as in UDP."""

    endpoint: Address


class EndpointReleased(Fact, frozen=True, gc=False):
    """An endpoint answered again and gets connections as before."""

    endpoint: Address


class FrontendOpened(Fact, frozen=True, gc=False):
    """The proxy listens on `address` for a service port."""

    service: str
    address: Address


class FrontendClosed(Fact, frozen=True, gc=False):
    """The proxy no longer listens on `address`; the connections accepted there go on."""

    service: str
    address: Address


class FrontendFailed(Fact, frozen=True, gc=False):
    """The proxy cannot listen on `address`, and will try again."""

    service: str
    address: Address
    reason: str


class EndpointsChanged(Fact, frozen=True, gc=False):
    """The endpoints of a service port have changed; `count` is how many there are.

    `added` and `removed` name the first `NAMED` by address; `left_out` counts the others, if any.
    """

    service: str
    added: tuple[Address, ...]
    removed: tuple[Address, ...]
    count: int
    left_out: int | None = None


class ServiceChanged(Fact, frozen=True, gc=False):
    """A service port was "added", "changed" in its policy, or "removed"."""

    service: str
    change: str


class ConnectionsMoved(Fact, frozen=True, gc=False):
    """Endpoints of a service port were removed, and `count` connections to them are ended for that.

    `action` is "drain" (at a quiet moment, later by a reset) or "reset".
    """

    service: str
    action: str
    count: int


class WatchLost(Fact, frozen=True, gc=False):
    """`resource` can no longer be read; what is known of it is still served."""

    resource: str


class WatchRegained(Fact, frozen=True, gc=False):
    """`resource` is being read again, after `seconds`."""

    resource: str
    seconds: float


class Subscription:
    """A queue of facts for one subscriber. End it with `close`."""

    def __init__(self, feed: "Feed", limit: int) -> None:
        self._feed = feed
        self._limit = limit
        self._facts: deque[Fact] = deque()
        self._is_waiting = False
        self._ready = asyncio.Event()
        self.dropped = 0
        """Facts that came while the queue was full."""

    def put(self, fact: Fact) -> None:
        """Queue a fact, or drop and count it. For the feed."""
        facts = self._facts
        if len(facts) >= self._limit:
            self.dropped += 1
            return
        facts.append(fact)
        if len(facts) == self._limit:
            self._feed.note_room()
        if self._is_waiting:
            self._is_waiting = False
            self._ready.set()

    def take(self) -> Fact | None:
        """The oldest fact that waits; None when there is none."""
        facts = self._facts
        if not facts:
            return None
        was_full = self.is_full
        fact = facts.popleft()
        if was_full:
            self._feed.note_room()
        return fact

    @property
    def is_full(self) -> bool:
        """Whether the next fact would be dropped."""
        return len(self._facts) >= self._limit

    async def wait(self) -> None:
        """Return when a fact waits."""
        while not self._facts:
            self._ready.clear()
            self._is_waiting = True
            await self._ready.wait()

    def close(self) -> None:
        """End this subscription."""
        self._feed.end(self)


class Feed:
    """Passes facts to subscribers. One per proxy; used from one thread."""

    def __init__(self) -> None:
        self._subscriptions: tuple[Subscription, ...] = ()
        self._recent: deque[Fact] = deque(maxlen=RECENT)
        self._followers: list[Callable[[Feed | None], None]] = []
        self.is_full = False
        """Every queue is full: call `drop` instead of building a fact."""

    @property
    def active(self) -> bool:
        return bool(self._subscriptions)

    def publish(self, fact: Fact) -> None:
        """Queue a fact for each subscriber."""
        for each in self._subscriptions:
            each.put(fact)

    def record(self, fact: Fact) -> None:
        """Keep a rare fact among the recent ones, and queue it for each subscriber."""
        self._recent.append(fact)
        for each in self._subscriptions:
            each.put(fact)

    def recent(self) -> tuple[Fact, ...]:
        """The facts that were recorded last, the oldest first: `RECENT` at most."""
        return tuple(self._recent)

    def drop(self, count: int = 1) -> None:
        """Count facts that were not built, since every queue is full."""
        for each in self._subscriptions:
            each.dropped += count

    def note_room(self) -> None:
        """A queue has become full, or is full no longer. For subscriptions."""
        self.is_full = bool(self._subscriptions) and all(s.is_full for s in self._subscriptions)

    def subscribe(self, limit: int = QUEUE) -> Subscription:
        """Every fact from now on, `limit` of them waiting at most."""
        made = Subscription(self, limit)
        self._change((*self._subscriptions, made))
        return made

    def end(self, subscription: Subscription) -> None:
        self._change(tuple(each for each in self._subscriptions if each is not subscription))

    def follow(self, give: Callable[["Feed | None"], None]) -> None:
        """Call `give` with this feed when the first subscription comes, and with None when the
        last one ends. For publishers that cannot afford to check `active` each time."""
        self._followers.append(give)
        if self.active:
            give(self)

    def _change(self, subscriptions: tuple[Subscription, ...]) -> None:
        was_active = self.active
        self._subscriptions = subscriptions
        self.note_room()
        if self.active is not was_active:
            for give in self._followers:
                give(self if self.active else None)
