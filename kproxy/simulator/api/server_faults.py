"""Faults of the API, on demand: what goes wrong between a client and a real API server.

Tests call `Faults.set`; a teacher posts the same to `/simulator/faults`:

    echo '{"kind": "gone", "resource": "services", "count": 1}' |
        kubectl create --raw /simulator/faults -f -
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from kproxy.simulator.store import statuses


class Kind(StrEnum):
    """The kinds of faults."""

    TOO_MANY_REQUESTS = "too-many-requests"
    """Answered with 429 and a Retry-After of `seconds`."""
    INTERNAL_ERROR = "internal-error"
    """Answered with 500."""
    BAD_GATEWAY = "bad-gateway"
    """Answered with 502 and a page of HTML, as by a proxy in front of the server."""
    UNAUTHORIZED = "unauthorized"
    """Answered with 401, as after a token's expiry."""
    FORBIDDEN = "forbidden"
    """Answered with 403, as without the Role."""
    LATE_RBAC = "late-rbac"
    """Answered with 403 for `seconds` from now on, as while a server's cache of roles fills, or
    until a right is granted; then the fault is off."""
    REVOKED_TOKENS = "revoked-tokens"
    """Answered with 401 if the token is one from before the last rotation."""
    STALLED_HEADERS = "stalled-headers"
    """Accepted and never answered."""
    SILENT_DEATH = "silent-death"
    """No request is answered, and open watches fall silent; connections are
    accepted and stay open, as when the server's process is stopped (SIGSTOP). Once the fault is
    cleared, what waited is answered and watches go on, as after SIGCONT."""
    TOO_LARGE_VERSION = "too-large-version"
    """A list is answered with 504, as by a replica that is behind."""
    SLOW_LIST = "slow-list"
    """The answer to a list comes after `seconds`, or once the fault is cleared."""
    DRIPPED_LIST = "dripped-list"
    """The answer to a list comes a byte at a time, with `seconds` between two."""
    STALE_CACHE = "stale-cache"
    """What a list has from the watch cache is `size` versions old, or as old as is known."""
    EXPIRED_CONTINUE = "expired-continue"
    """410 for every continue token, with a token for the rest of an inconsistent list."""
    LOST_CONTINUE = "lost-continue"
    """410 for every continue token, without a token to go on with."""
    REPEATED_CONTINUE = "repeated-continue"
    """Every page of a list has the continue token that leads to the same page."""
    ENDLESS_PAGES = "endless-pages"
    """Every page of a list is followed by another, with objects of other names."""
    ENDLESS_FIELDS = "endless-fields"
    """The metadata of a list has fields without end."""
    GONE = "gone"
    """410: the answer to a list, an ERROR event in a watch (one that is open too)."""
    GONE_STATUS = "gone-status"
    """410 as the answer to a watch, not as an event in it."""
    SILENT_WATCH = "silent-watch"
    """A watch stays open, and nothing comes any more (one that is open too)."""
    ABRUPT_CLOSE = "abrupt-close"
    """The connection is closed in the middle of the body (of an open watch too)."""
    HALF_LINE = "half-line"
    """The next event of a watch is cut in the middle, and the watch ends."""
    EMPTY_WATCH = "empty-watch"
    """A watch ends at once, without an event."""
    ERROR_EVENT = "error-event"
    """A watch ends with an ERROR event whose Status has no code and no reason."""
    NO_BOOKMARKS = "no-bookmarks"
    """Watches get no bookmarks, but for the one that ends a streaming list."""
    IGNORED_INITIAL_EVENTS = "ignored-initial-events"
    """A watch that asks for a streaming list is served as any other watch."""
    DUPLICATE_EVENTS = "duplicate-events"
    """Each event of a watch is sent twice."""
    REORDER_EVENTS = "reorder-events"
    """Events are collected for `seconds`; those of different objects then change places."""
    OVERSIZED_OBJECTS = "oversized-objects"
    """Objects have an annotation of `size` bytes more than is stored."""
    RESTART = "restart"
    """Once: the server stops, starts again after `seconds`, and has forgotten all events."""
    COMPACTION = "compaction"
    """Once: etcd forgets all past states, and with them every continue token."""
    ROTATED_TOKEN = "rotated-token"  # noqa: S105
    """Once: there is a new token, and the kubeconfig is rewritten; the old token is unknown."""
    REKEY = "rekey"
    """Once: a restart after `seconds` with a new authority and certificate; the kubeconfig is
    rewritten."""


ANSWERS = frozenset(
    {
        Kind.TOO_MANY_REQUESTS,
        Kind.INTERNAL_ERROR,
        Kind.BAD_GATEWAY,
        Kind.UNAUTHORIZED,
        Kind.FORBIDDEN,
        Kind.LATE_RBAC,
        Kind.STALLED_HEADERS,
    }
)
EVERYTHING = frozenset({Kind.SILENT_DEATH})
"""Faults of all requests, those for documents included."""
LISTS = frozenset(
    {
        Kind.TOO_LARGE_VERSION,
        Kind.SLOW_LIST,
        Kind.GONE,
        Kind.ABRUPT_CLOSE,
        Kind.ENDLESS_FIELDS,
    }
)
TOKENS = frozenset({Kind.EXPIRED_CONTINUE, Kind.LOST_CONTINUE})
"""Faults of lists that go on from a continue token."""
PAGES = frozenset({Kind.REPEATED_CONTINUE, Kind.ENDLESS_PAGES})
WATCH_STARTS = frozenset({Kind.GONE_STATUS})
STREAMS = frozenset(
    {
        Kind.GONE,
        Kind.SILENT_WATCH,
        Kind.SILENT_DEATH,
        Kind.ABRUPT_CLOSE,
        Kind.EMPTY_WATCH,
        Kind.ERROR_EVENT,
    }
)
"""Faults that end or silence a watch, whether or not there is an event to send."""
EVENTS = frozenset({Kind.HALF_LINE, Kind.DUPLICATE_EVENTS, Kind.REORDER_EVENTS})
INCIDENTS = frozenset({Kind.RESTART, Kind.COMPACTION, Kind.ROTATED_TOKEN, Kind.REKEY})
"""Incidents: they happen once, as soon as they are set."""

PADDING = "kproxy.io/padding"
"""The annotation that makes an object oversized."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One switch. `resource` (plural) and `verb` limit it, "" does not; `count` is how many
    requests it still meets (for faults of events, how many batches of them), None all; `until` is
    the time of the event loop at which it ends, None without such an end."""

    kind: Kind
    resource: str = ""
    verb: str = ""
    count: int | None = None
    seconds: float = 1.0
    size: int = 1_000_000
    until: float | None = None

    def applies(self, kinds: Collection[Kind], resource: str, verb: str) -> bool:
        """Whether a request of this kind meets it."""
        return (
            self.kind in kinds
            and self.resource in ("", resource)
            and self.verb in ("", verb)
            and self.count != 0
        )


class Faults:
    """The switches that are on, in the order in which they were set.

    `clock` gives the event loop's time.
    """

    def __init__(
        self, *, clock: Callable[[], float] = lambda: asyncio.get_running_loop().time()
    ) -> None:
        self._active: list[Fault] = []
        self._clock = clock
        self._on_change: list[Callable[[], None]] = []
        self._on_incident: list[Callable[[Fault], None]] = []
        self._cleared = asyncio.Event()

    def set(
        self,
        kind: Kind,
        *,
        resource: str = "",
        verb: str = "",
        count: int | None = None,
        seconds: float = 1.0,
        size: int = 1_000_000,
    ) -> None:
        """Switch a fault on, or let an incident happen. Open streams meet it at once, if it
        concerns them."""
        fault = Fault(kind, resource, verb, count, seconds, size)
        if kind in INCIDENTS:
            for on_incident in self._on_incident:
                on_incident(fault)
            return
        if kind == Kind.LATE_RBAC:
            fault = replace(fault, until=self._clock() + seconds)
        self._active.append(fault)
        for callback in self._on_change:
            callback()

    def clear(self) -> None:
        self._active.clear()
        self._cleared.set()
        self._cleared = asyncio.Event()

    async def cleared(self) -> None:
        """Wait until all of them are switched off, from now on."""
        await self._cleared.wait()

    def active(self) -> list[dict[str, Any]]:
        """The faults that are on, as plain data."""
        self._end_those_whose_time_is_over()
        shown = [asdict(fault) for fault in self._active]
        return [{field: each[field] for field in each if field != "until"} for each in shown]

    def take(self, kinds: Collection[Kind], resource: str, verb: str) -> Fault | None:
        """The fault that this request meets, if any: its count goes down by one."""
        self._end_those_whose_time_is_over()
        for place, fault in enumerate(self._active):
            if fault.applies(kinds, resource, verb):
                if fault.count == 1:
                    del self._active[place]
                elif fault.count is not None:
                    self._active[place] = replace(fault, count=fault.count - 1)
                return fault
        return None

    def is_on(self, kind: Kind, resource: str = "", verb: str = "") -> bool:
        """Whether such a request meets a fault of this kind; no count goes down."""
        return any(fault.applies((kind,), resource, verb) for fault in self._active)

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call back whenever a fault is set."""
        self._on_change.append(callback)

    def on_incident(self, callback: Callable[[Fault], None]) -> None:
        """Call back whenever an incident is to happen."""
        self._on_incident.append(callback)

    def _end_those_whose_time_is_over(self) -> None:
        if any(fault.until is not None for fault in self._active):
            now = self._clock()
            self._active = [each for each in self._active if each.until is None or now < each.until]


_FIELDS = {"resource": str, "verb": str, "count": int, "seconds": int | float, "size": int}
_LARGEST = {"count": 10**9, "seconds": 10**9, "size": 10**8}


def parsed(body: Any) -> tuple[Kind, dict[str, Any]]:
    """The kind and the settings in a posted JSON object. Raises BadRequest."""
    kind = body.get("kind") if isinstance(body, dict) else None
    if not isinstance(kind, str) or kind not in set(Kind):
        kinds = ", ".join(Kind)
        raise statuses.bad_request(f"a fault is an object with a kind, one of: {kinds}")
    settings = {field: value for field, value in body.items() if field != "kind"}
    for field, value in settings.items():
        wanted = _FIELDS.get(field)
        if wanted is None or not isinstance(value, wanted) or isinstance(value, bool):
            raise statuses.bad_request(f"a fault has no {field} of this type: {value!r:.100}")
        if isinstance(value, int | float) and not 0 <= value <= _LARGEST[field]:
            raise statuses.bad_request(
                f"a fault's {field} is {value!r:.100}; it must be from 0 to {_LARGEST[field]}"
            )
    return Kind(kind), settings
