"""Counters: plain integers, read by whoever shows them.

The hot path only ever adds to an attribute. Turning these into Prometheus samples is the work of
a collector, at scrape time.
"""

from collections import Counter
from collections.abc import Collection, Iterable

SETTLED_SECONDS = 1.0
"""A watch that has lasted so long is a good one, whatever happened before."""


class EndpointCounters:
    """What happened between one service port and one of its endpoints.

    `total` counts the connections that reached the endpoint, `active` those of them that are open
    now, `dial_failures` the dials that failed for a reason of the endpoint's.
    """

    __slots__ = ("active", "dial_failures", "total")

    def __init__(self) -> None:
        self.total = 0
        self.active = 0
        self.dial_failures = 0


class ServicePortCounters:
    """What happened on one service port.

    Bytes are payload bytes by direction: of connections that have ended, and of open ones what
    `Connection.count_bytes` last found. `ended` counts connections by reason
    (`datapath.halfclose.Reason`), `dial_failures` failed dials by errno name; `listen_drops` what
    `Listener.drops` of its closed listeners came to. `endpoints` has those that were dialled since
    they came into the set.
    """

    __slots__ = (
        "active",
        "bytes_from_backends",
        "bytes_from_clients",
        "dial_failures",
        "ended",
        "endpoints",
        "listen_drops",
    )

    def __init__(self, reasons: Iterable[str]) -> None:
        self.active = 0
        self.bytes_from_clients = 0
        self.bytes_from_backends = 0
        self.dial_failures: Counter[str] = Counter()
        self.listen_drops = 0
        # A plain dict: assigning to a Counter's item costs a Python-level call.
        self.ended: dict[str, int] = dict.fromkeys(reasons, 0)
        self.endpoints: dict[tuple[str, int], EndpointCounters] = {}

    @property
    def accepted(self) -> int:
        """Connections accepted so far."""
        return self.active + sum(self.ended.values())

    def endpoint(self, address: tuple[str, int]) -> EndpointCounters:
        """The counters of one endpoint, made at its first dial."""
        found = self.endpoints.get(address)
        if found is None:
            found = self.endpoints[address] = EndpointCounters()
        return found

    def keep_endpoints(self, wanted: Collection[tuple[str, int]]) -> None:
        """Forget the endpoints that are not in `wanted` and have no connection any more."""
        gone = [
            address
            for address, each in self.endpoints.items()
            if not each.active and address not in wanted
        ]
        for address in gone:
            del self.endpoints[address]


class DataPathCounters:
    """What happened in the whole data path."""

    __slots__ = (
        "accept_errors",
        "accept_pauses",
        "bugs",
        "small_pipes",
        "splice_fallbacks",
        "splices",
        "stale_events",
        "stalls_recovered",
    )

    def __init__(self) -> None:
        self.accept_errors = 0
        self.accept_pauses = 0
        self.bugs = 0
        self.small_pipes = 0
        self.splices = 0
        self.splice_fallbacks = 0
        self.stale_events = 0
        self.stalls_recovered = 0


class ReflectorCounters:
    """What happened to one list-and-watch of the API, named after its `resource` (a plural).

    Moments are on the monotonic clock. `last_contact` is when the server last sent a byte that
    made sense (an event, a bookmark, a list), None before the first; `failing_since` is when
    contact was lost, None while all is well; `answered_at` is when the request under way was
    answered, None while there is none or an answer proves nothing, as after a silence. `relists`
    counts lists by cause, `events` watch events by type, `failures` what broke a list or a watch,
    by reason.
    """

    __slots__ = (
        "answered_at",
        "events",
        "failing_since",
        "failures",
        "last_contact",
        "malformed",
        "relists",
        "resource",
        "watches",
    )

    def __init__(self, resource: str) -> None:
        self.resource = resource
        self.relists: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.watches = 0
        self.malformed = 0
        self.last_contact: float | None = None
        self.failing_since: float | None = None
        self.answered_at: float | None = None


def unread(watched: Iterable[ReflectorCounters], now: float) -> dict[str, float]:
    """What cannot be read at the moment, and for how many seconds nothing of it has been read.

    Empty while all is well. Counted from the last byte that made sense, since a loss may go
    unnoticed for a while, and at least from the first failure.
    """
    seconds: dict[str, float] = {}
    for one in watched:  # one for each namespace, if namespaces are named
        is_live = one.answered_at is not None and now - one.answered_at >= SETTLED_SECONDS
        if one.failing_since is not None and not is_live:
            heard = one.failing_since if one.last_contact is None else one.last_contact
            lost = max(now - min(heard, one.failing_since), 0.0)
            seconds[one.resource] = max(lost, seconds.get(one.resource, 0.0))
    return seconds
