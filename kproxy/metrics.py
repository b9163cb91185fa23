"""Counters of the data path: plain integers, read by whoever shows them.

The hot path only ever adds to an attribute. Turning these into Prometheus samples is the work of
a collector, at scrape time.
"""

from collections import Counter


class ServicePortCounters:
    """What happened on one service port. Bytes are payload bytes relayed, by direction."""

    __slots__ = (
        "accepted",
        "active",
        "bytes_from_backends",
        "bytes_from_clients",
        "dial_failures",
        "ended",
    )

    def __init__(self) -> None:
        self.accepted = 0
        self.active = 0
        self.bytes_from_clients = 0
        self.bytes_from_backends = 0
        self.dial_failures: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()


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
