"""Counters: plain integers.

The hot path only adds to an attribute. A collector turns them into Prometheus samples when a scrape
comes.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

SETTLED_SECONDS = 1.0
"""A request that has lasted this many seconds without failure ends the trouble before it."""


class EndpointCounters:
    """What happened between one service port and one of its endpoints.

    `total` counts the connections that reached the endpoint, `ended` those of them that have ended,
    `dial_failures` the dials that failed for a reason of the endpoint's.
    """

    __slots__ = ("dial_failures", "ended", "total")

    def __init__(self) -> None:
        self.total = 0
        self.ended = 0
        self.dial_failures = 0

    @property
    def active(self) -> int:
        """The connections to the endpoint that are open now."""
        return self.total - self.ended


class ServicePortCounters:
    """What happened on one service port.

    Bytes are payload bytes by direction: of connections that have ended, and of open ones what
    `Connection.count_bytes` last found. `ended` counts connections by reason
    (`datapath.halfclose.Reason`), `dial_failures` failed dials by errno name; `listen_drops` what
    `Listener.drops` of its closed listeners came to. `endpoints` has those that were dialled since
    they came into the set: the first look-up makes the counters of an endpoint.
    """

    __slots__ = (
        "accepted",
        "bytes_from_backends",
        "bytes_from_clients",
        "dial_failures",
        "ended",
        "endpoints",
        "listen_drops",
    )

    def __init__(self, reasons: Iterable[str]) -> None:
        self.accepted = 0
        self.bytes_from_clients = 0
        self.bytes_from_backends = 0
        self.dial_failures: defaultdict[str, int] = defaultdict(int)
        self.listen_drops = 0
        # A plain dict: assigning to a Counter's item costs a Python-level call.
        self.ended: dict[str, int] = dict.fromkeys(reasons, 0)
        self.endpoints: defaultdict[tuple[str, int], EndpointCounters] = defaultdict(
            EndpointCounters
        )

    @property
    def active(self) -> int:
        """The connections that are open now."""
        return self.accepted - sum(self.ended.values())

    def end_at_once(self, reason: str) -> None:
        """Count one that ends before anything is known of it."""
        self.accepted += 1
        self.ended[reason] += 1

    def keep_endpoints(self, wanted: Collection[tuple[str, int]]) -> None:
        """Forget the endpoints that are not in `wanted` and have no connection any more."""
        if not self.endpoints:
            return
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
        "datagrams",
        "datagrams_lost",
        "shared_listen_drops",
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
        self.datagrams = 0
        self.datagrams_lost = 0
        self.shared_listen_drops = 0
        self.small_pipes = 0
        self.splices = 0
        self.splice_fallbacks = 0
        self.stale_events = 0
        self.stalls_recovered = 0


class IngressCounters:
    """What happened to the nginx that serves Ingresses.

    `configurations` counts those that came into force, the first one included; `reloads` those
    among them that a running nginx took. `refusals` counts those that nginx did not accept, or did
    not answer with in time; `restarts` how often it ended unasked.
    """

    __slots__ = ("configurations", "refusals", "reloads", "restarts")

    def __init__(self) -> None:
        self.configurations = 0
        self.refusals = 0
        self.reloads = 0
        self.restarts = 0


class Contact:
    """Whether a list-and-watch is in contact with its server.

    Moments are on one clock that does not run backwards. `heard_at` is when the server last sent
    something valid (an event, a bookmark, a list, any answer to a probe), None before
    the first. `failing_since` is when contact was lost, None while all is well; `trouble` names
    what is wrong then, "" if it has no name yet.
    """

    __slots__ = (
        "_began",
        "_is_answered",
        "_is_watch",
        "_was_answered",
        "_was_watch",
        "failing_since",
        "heard_at",
        "trouble",
    )

    def __init__(self) -> None:
        self.heard_at: float | None = None
        self.failing_since: float | None = None
        self.trouble = ""
        self._began = 0.0
        self._is_answered = False
        self._is_watch = False
        self._was_answered = False
        self._was_watch = False

    def begin(self, now: float, *, is_watch: bool) -> None:
        self._began = now
        self._is_answered = False
        self._is_watch = is_watch

    def lasted(self, now: float) -> float:
        """Seconds since the request began."""
        return now - self._began

    def answered(self, now: float) -> bool:
        """The request is answered, with a body to come. Returns whether this ends the trouble.

        Trouble with watches ends with a watch that is answered, however many lists are. And if
        the request in trouble was itself answered, and only its answer was bad, then trouble ends
        once a later request has gone well for `SETTLED_SECONDS`. Otherwise a server whose every
        answer begins well and ends badly would be reported again and again.
        """
        self._is_answered = True
        return self._recover(now)

    def heard(self, now: float) -> bool:
        """The server has sent something valid. Returns whether this ends the trouble."""
        self.heard_at = now
        return self._recover(now)

    def lost(self, now: float) -> None:
        """Contact is lost, for a reason that may end by itself within a second."""
        if self.failing_since is None:
            self.failing_since = now
        self._was_answered, self._was_watch = self._is_answered, self._is_watch

    def failed(self, now: float, trouble: str) -> bool:
        """Contact is lost because of `trouble`. Returns whether it is another one than before."""
        self.lost(now)
        is_news, self.trouble = trouble != self.trouble, trouble
        return is_news

    def unread_for(self, now: float) -> float | None:
        """Seconds for which nothing could be read; None while all is well.

        Counted from the last valid message of the server, since a loss may go unnoticed for a
        while, or from the first failure if that is earlier.
        """
        if self.failing_since is None:
            return None
        heard_at = self.failing_since if self.heard_at is None else self.heard_at
        return max(now - min(heard_at, self.failing_since), 0.0)

    @property
    def is_heard(self) -> bool:
        """Whether the server has sent something valid since contact was lost."""
        since, heard_at = self.failing_since, self.heard_at
        return since is not None and heard_at is not None and heard_at > since

    def _recover(self, now: float) -> bool:
        if self._was_watch and not self._is_watch:
            return False
        if self._was_answered and self.lasted(now) < SETTLED_SECONDS:
            return False
        was_failing, self.failing_since = self.failing_since is not None, None
        self.trouble, self._was_answered, self._was_watch = "", False, False
        return was_failing


class ReflectorCounters:
    """What happened to one list-and-watch of the API, named after its `resource` (a plural).

    `namespace` is the one it is restricted to, "" for all. `relists` counts lists by cause,
    `events` watch events by type, `failures` what broke a list or a watch, by reason.
    """

    __slots__ = (
        "contact",
        "events",
        "failures",
        "malformed",
        "namespace",
        "relists",
        "resource",
        "watches",
    )

    def __init__(self, resource: str, namespace: str = "") -> None:
        self.resource = resource
        self.namespace = namespace
        self.contact = Contact()
        self.relists: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.watches = 0
        self.malformed = 0


def unread(watched: Iterable[ReflectorCounters], now: float) -> dict[str, float]:
    """What cannot be read at the moment, and for how many seconds; empty while all is well."""
    seconds: dict[str, float] = {}
    for one in watched:
        lost = one.contact.unread_for(now)
        if lost is not None:
            where = f" in namespace {one.namespace}" if one.namespace else ""
            seconds[f"{one.resource}{where}"] = lost
    return seconds


class DnsCounters:
    """What a name server was asked.

    `requests` counts answers by the type that was asked for and by what became of them; a list of
    one number is shared by those who add to it. `dropped` counts what got no answer: answers that
    came as questions, and what has no header. `forwarded` counts questions that others were asked,
    `forward_failures` those of them that none answered.
    """

    __slots__ = ("dropped", "forward_failures", "forwarded", "requests")

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str], list[int]] = {}
        self.dropped = 0
        self.forwarded = 0
        self.forward_failures = 0

    def tally(self, type_: str, rcode: str) -> list[int]:
        """The counter of answers of a type and a result."""
        return self.requests.setdefault((type_, rcode), [0])
