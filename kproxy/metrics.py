"""Counters of the data path: plain integers, read by whoever shows them.

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
