"""Counters: plain integers, read by whoever shows them.

The hot path only ever adds to an attribute. Turning these into Prometheus samples is the work of
a collector, at scrape time.
"""

from collections import Counter
from collections.abc import Iterable


class ServicePortCounters:
    """What happened on one service port.

    Bytes are payload bytes of connections that have ended, by direction. `ended` counts them by
    reason (`datapath.halfclose.Reason`), `dial_failures` failed dials by errno name.
    """

    __slots__ = (
        "active",
        "bytes_from_backends",
        "bytes_from_clients",
        "dial_failures",
        "ended",
    )

    def __init__(self, reasons: Iterable[str]) -> None:
        self.active = 0
        self.bytes_from_clients = 0
        self.bytes_from_backends = 0
        self.dial_failures: Counter[str] = Counter()
        # A plain dict: assigning to a Counter's item costs a Python-level call.
        self.ended: dict[str, int] = dict.fromkeys(reasons, 0)

    @property
    def accepted(self) -> int:
        """Connections accepted so far."""
        return self.active + sum(self.ended.values())


class DataPathCounters:
    """What happened in the whole data path."""

    __slots__ = (
        "accept_errors",
        "accept_pauses",
        "bugs",
        "splice_fallbacks",
        "splices",
        "stale_events",
        "stalls_recovered",
    )

    def __init__(self) -> None:
        self.accept_errors = 0
        self.accept_pauses = 0
        self.bugs = 0
        self.splices = 0
        self.splice_fallbacks = 0
        self.stale_events = 0
        self.stalls_recovered = 0


class ReflectorCounters:
    """What happened to one list-and-watch of the API, named after its `resource` (a plural).

    Moments are on the monotonic clock. `last_contact` is when the server last sent a byte that
    made sense (an event, a bookmark, a list), None before the first; `failing_since` is when
    contact was lost, None while all is well. `relists` counts lists by cause, `events` watch
    events by type, `failures` what broke a list or a watch, by reason.
    """

    __slots__ = (
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


def out_of_contact(watched: Iterable[ReflectorCounters], now: float) -> float | None:
    """Seconds for which nothing was heard of what is in trouble, None when nothing is.

    Counted from the last byte that made sense: a loss may have gone unnoticed for a while.
    """
    since = [
        one.failing_since if one.last_contact is None else one.last_contact
        for one in watched
        if one.failing_since is not None
    ]
    return max(now - min(since), 0.0) if since else None
