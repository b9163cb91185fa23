"""Faults of the API, to order: what goes wrong between a client and a real API server.

Tests call `Faults.set`; a teacher posts the same to `/simulator/faults`:

    echo '{"kind": "gone", "resource": "services", "count": 1}' |
        kubectl create --raw /simulator/faults -f -
"""

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from kproxy.simulator import status


class Kind(StrEnum):
    """What goes wrong."""

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
    STALLED_HEADERS = "stalled-headers"
    """Accepted and never answered."""
    TOO_LARGE_VERSION = "too-large-version"
    """A list is answered with 504, as by a replica that is behind."""
    SLOW_LIST = "slow-list"
    """The answer to a list comes after `seconds`."""
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
    DUPLICATE_EVENTS = "duplicate-events"
    """Each event of a watch is sent twice."""
    REORDER_EVENTS = "reorder-events"
    """Events are collected for `seconds`; those of different objects then change places."""
    OVERSIZED_OBJECTS = "oversized-objects"
    """Objects have an annotation of `size` bytes more than is stored."""


ANSWERS = frozenset(
    {
        Kind.TOO_MANY_REQUESTS,
        Kind.INTERNAL_ERROR,
        Kind.BAD_GATEWAY,
        Kind.UNAUTHORIZED,
        Kind.FORBIDDEN,
        Kind.STALLED_HEADERS,
    }
)
LISTS = frozenset({Kind.TOO_LARGE_VERSION, Kind.SLOW_LIST, Kind.GONE, Kind.ABRUPT_CLOSE})
WATCH_STARTS = frozenset({Kind.GONE_STATUS})
STREAMS = frozenset({Kind.GONE, Kind.SILENT_WATCH, Kind.ABRUPT_CLOSE, Kind.EMPTY_WATCH})
"""What ends or silences a watch, whether or not there is an event to send."""
EVENTS = frozenset({Kind.HALF_LINE, Kind.DUPLICATE_EVENTS, Kind.REORDER_EVENTS})

PADDING = "kproxy.io/padding"
"""The annotation that makes an object oversized."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One switch. `resource` (plural) and `verb` limit it, "" does not; `count` is how many
    requests it still meets (for faults of events, how many batches of them), None all."""

    kind: Kind
    resource: str = ""
    verb: str = ""
    count: int | None = None
    seconds: float = 1.0
    size: int = 1_000_000

    def applies(self, kinds: Collection[Kind], resource: str, verb: str) -> bool:
        """Whether a request of this kind meets it."""
        return (
            self.kind in kinds
            and self.resource in ("", resource)
            and self.verb in ("", verb)
            and self.count != 0
        )


class Faults:
    """The switches that are on, in the order in which they were set."""

    def __init__(self) -> None:
        self._active: list[Fault] = []
        self._on_change: list[Callable[[], None]] = []

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
        """Switch a fault on. Streams that are open meet it at once, where that makes sense."""
        self._active.append(Fault(kind, resource, verb, count, seconds, size))
        for callback in self._on_change:
            callback()

    def clear(self) -> None:
        """Switch all of them off."""
        self._active.clear()

    def active(self) -> list[dict[str, Any]]:
        """Those that are on, as plain data."""
        return [asdict(fault) for fault in self._active]

    def take(self, kinds: Collection[Kind], resource: str, verb: str) -> Fault | None:
        """The fault that this request meets, if any: its count goes down by one."""
        for place, fault in enumerate(self._active):
            if fault.applies(kinds, resource, verb):
                if fault.count == 1:
                    del self._active[place]
                elif fault.count is not None:
                    self._active[place] = replace(fault, count=fault.count - 1)
                return fault
        return None

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call back whenever a fault is set."""
        self._on_change.append(callback)

    def set_from(self, body: Any) -> None:
        """Switch on what a posted JSON object describes. Raises BadRequest."""
        kinds = ", ".join(Kind)
        if not isinstance(body, dict) or body.get("kind") not in set(Kind):
            raise status.bad_request(f"a fault is an object with a kind, one of: {kinds}")
        types = {"resource": str, "verb": str, "count": int, "seconds": int | float, "size": int}
        for field, value in body.items():
            if field != "kind" and (field not in types or not isinstance(value, types[field])):
                raise status.bad_request(f"a fault has no {field} of this type: {value!r}")
        settings = {field: value for field, value in body.items() if field != "kind"}
        self.set(Kind(body["kind"]), **settings)
