"""What a list-and-watch does next, and how long it waits before: decisions without effects.

The rules are those of client-go's Reflector and Pager (`tools/cache/reflector.go`, `tools/pager`);
docs/behaviour.md has them as a table, tests/sources/api/test_client_go_rules.py row by row:

* the first list accepts any version the server has at hand ("0"). Later lists ask for nothing
  older than the version that is known. Only when the server does not have that version (410, or
  504 "too large resource version") do they ask for the newest state ("");
* a watch that ends goes on from the last version, without a list. So does one that was refused
  by the kernel or by 429: a list would be refused as well. Every other failure of a watch is
  followed by a list;
* a streaming list that fails otherwise than by refusal, 429, 410 or "too large" is made good by a
  plain list.

Two rules are stricter than client-go's. Two watches in a row that end in 410 without an event
between them mean that relisting does not help: the next list asks for the newest state. And a
watch that ended in silence goes on from its version, as one that was cut does.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from kproxy import metrics

HEALTHY_WATCH_SECONDS = 30.0
"""A watch that lasted this long ended normally; the next one begins at once."""

LEAST_WATCH_SECONDS = metrics.SETTLED_SECONDS
"""A watch that ended sooner and brought no event has failed (`VeryShortWatchError`)."""

MOST_LOST = 10
"""Watches in a row whose connection was lost before an answer (client-go's `maxRetries`)."""

PATIENT_AFTER_SECONDS = 120.0
"""A trouble older than this is retried less often: it needs an operator."""


class Mode(StrEnum):
    """The kind of request."""

    LIST = "list"
    STREAM = "stream"
    """A streaming list (KEP-3157): a watch that begins with all there is."""
    WATCH = "watch"


class Outcome(StrEnum):
    """How a list or a watch ended."""

    LISTED = "listed"
    ENDED = "ended"
    """The server closed the watch, as it does after timeoutSeconds."""
    QUIET = "quiet"
    """We closed a watch on which nothing came, to see whether another one is answered."""
    EXPIRED = "expired"
    TOO_LARGE = "too-large-resource-version"
    EMPTY = "empty-answer"
    """The watch ended as soon as it began, without a word."""
    STREAM_REFUSED = "streaming-list-refused"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    THROTTLED = "throttled"
    SERVER_ERROR = "server-error"
    REFUSED = "refused"
    """ECONNREFUSED: no process listens there."""
    LOST = "connection-lost"
    """The connection was closed or reset before the answer began."""
    UNREACHABLE = "unreachable"
    TLS_FAILED = "tls-failed"
    CREDENTIALS = "credentials"
    BROKEN_OFF = "broken-off"
    MALFORMED = "malformed"
    EXCESSIVE = "excessive"
    """The answer exceeds a bound: objects, pages, bytes, or patience."""
    SILENT = "silent"
    INTERRUPTED = "interrupted"
    """We ended it, because the machine was asleep: the connection may be dead."""
    DEAF = "deaf"
    """We ended a watch that did not bring what another one brought."""
    BUG = "bug"

    @property
    def reason(self) -> str:
        """The name in counters and messages: all ways of not reaching a server have the same."""
        return Outcome.UNREACHABLE.value if self in AWAY else self.value


class Wait(StrEnum):
    """What to wait for before the next request."""

    NOTHING = "nothing"
    BACKOFF = "backoff"
    RELIST = "relist"
    """No wait the first time, then like BACKOFF."""
    PERMISSION = "permission"


TURNED_AWAY = frozenset({Outcome.UNAUTHORIZED, Outcome.TLS_FAILED})
"""Credentials were refused, or TLS failed. New files on disk may mend both."""

AWAY = frozenset({Outcome.REFUSED, Outcome.LOST, Outcome.UNREACHABLE})
_WELL = frozenset(
    {
        Outcome.LISTED,
        Outcome.ENDED,
        Outcome.QUIET,
        Outcome.INTERRUPTED,
        Outcome.DEAF,
        Outcome.STREAM_REFUSED,
    }
)
NO_FAILURES = frozenset({Outcome.LISTED, Outcome.ENDED, Outcome.QUIET})
"""Outcomes that are not counted as failures."""

UNANSWERED = frozenset({Outcome.SILENT, Outcome.UNREACHABLE})
"""The server may hang, and the next request may time out."""

_GONE = frozenset({Outcome.EXPIRED, Outcome.TOO_LARGE})


@dataclass(frozen=True, slots=True)
class Position:
    """Where a list-and-watch stands.

    `version` is the newest resourceVersion seen, "" before the first list. `is_listed`: the
    next request is a watch from it. `is_gone`: the server no longer has it. `streams`: the server
    has not refused streaming lists. `falls_back`: a streaming list failed, and the next list is a
    plain one. `expired` counts the watches in a row that ended in 410 and brought no event,
    `lost` the connections in a row that were lost before an answer.
    """

    version: str = ""
    is_listed: bool = False
    is_gone: bool = False
    streams: bool = True
    falls_back: bool = False
    expired: int = 0
    lost: int = 0

    @property
    def mode(self) -> Mode:
        """What the next request is."""
        if self.is_listed:
            return Mode.WATCH
        return Mode.STREAM if self.streams and not self.falls_back else Mode.LIST

    @property
    def asked_version(self) -> str:
        """The resourceVersion of the next request; "" asks for the newest state."""
        if self.is_gone:
            return ""
        return self.version or ("0" if self.mode is Mode.LIST else "")

    @property
    def begins_epoch(self) -> bool:
        """Whether what the next list says is true even where it is older than what we have."""
        return not self.is_listed and (self.is_gone or not self.version)


def after(position: Position, outcome: Outcome, *, is_short: bool = False) -> Position:
    """Where the end of a list or a watch leads.

    `is_short`: the watch lasted less than `LEAST_WATCH_SECONDS` and brought no event.
    """
    lost = position.lost + 1 if outcome is Outcome.LOST else 0
    position = replace(position, lost=lost)
    match outcome:
        case Outcome.STREAM_REFUSED:
            return replace(position, streams=False)
        case Outcome.EXPIRED | Outcome.TOO_LARGE if position.is_listed:
            is_stuck = position.expired > 0
            expired = position.expired + 1
            return replace(position, is_listed=False, is_gone=is_stuck, expired=expired)
        case Outcome.EXPIRED | Outcome.TOO_LARGE:
            return replace(position, is_gone=True)
        case Outcome.LISTED | Outcome.ENDED | Outcome.QUIET | Outcome.INTERRUPTED | Outcome.DEAF:
            return position
        case Outcome.REFUSED | Outcome.THROTTLED:
            return position
        case Outcome.LOST if lost <= MOST_LOST:
            return position
        case Outcome.BROKEN_OFF | Outcome.SILENT if position.is_listed and not is_short:
            return position
    if position.is_listed:
        return replace(position, is_listed=False)
    return replace(position, falls_back=True)


def listed(position: Position, version: str) -> Position:
    """A list is complete, at `version`."""
    return replace(position, version=version, is_listed=True, is_gone=False, falls_back=False)


def heard(position: Position, version: str) -> Position:
    """A watch has brought an event or a bookmark, at `version`: it makes progress."""
    return replace(position, version=version, expired=0)


def is_stuck(position: Position, version: str) -> bool:
    """Whether a list at `version` that follows a 410 made no progress.

    The server no longer has the version that the watch asked for, and lists that very version: the
    next watch will end in 410 as well, which is then reported.
    """
    return position.expired > 0 and not position.is_gone and version == position.version


def wait_after(position: Position, outcome: Outcome, lasted: float) -> Wait:
    """What to wait for after a request, made from `position`, that lasted so many seconds."""
    match outcome:
        case Outcome.LISTED | Outcome.STREAM_REFUSED | Outcome.QUIET:
            return Wait.NOTHING
        case Outcome.INTERRUPTED | Outcome.DEAF:
            return Wait.NOTHING
        case Outcome.FORBIDDEN:
            return Wait.PERMISSION
        case Outcome.EXPIRED | Outcome.TOO_LARGE if position.is_listed:
            return Wait.RELIST
        case Outcome.EXPIRED | Outcome.TOO_LARGE if not position.is_gone:
            return Wait.NOTHING
        case Outcome.REFUSED | Outcome.THROTTLED | Outcome.LOST:
            return Wait.BACKOFF
    if position.mode is Mode.STREAM and after(position, outcome).falls_back:
        return Wait.NOTHING
    if position.is_listed and lasted >= HEALTHY_WATCH_SECONDS:
        return Wait.NOTHING
    return Wait.BACKOFF


def is_patient(outcome: Outcome, failing_for: float, *, is_heard: bool) -> bool:
    """Whether waits may grow beyond a few seconds, in a trouble of `failing_for` seconds.

    `is_heard`: the server has answered other requests meanwhile, so it is not away. A refused
    connection costs the server's kernel next to nothing, and a refused token or handshake costs
    the server little; a server that returns, or accepts us again, is to be found within seconds,
    however long it was away. Requests that cost a server work become rarer after a while, and at
    once when the server says that it has too much to do.
    """
    if outcome in TURNED_AWAY or (outcome in AWAY and not is_heard):
        return False
    return outcome is Outcome.THROTTLED or failing_for >= PATIENT_AFTER_SECONDS


def is_trouble(position: Position, outcome: Outcome, *, is_short: bool) -> bool:
    """Whether an outcome is reported to users, since it is no part of normal operation.

    A cut watch is normal (an API server was restarted), and so is one whose version has expired. A
    watch that is cut at once is trouble, and so is a second 410 without progress.
    """
    if outcome in _WELL:
        return False
    if outcome in _GONE:
        return position.is_gone or (position.is_listed and position.expired > 0)
    if outcome is Outcome.BROKEN_OFF:
        return not position.is_listed or is_short
    return True


def outcome_of(
    mode: Mode, code: int, reason: str, message: str, causes: tuple[str, ...]
) -> Outcome:
    """What a status means, whether it came as the answer or as an ERROR event."""
    if code == 410 or reason in {"Expired", "Gone"}:
        return Outcome.EXPIRED
    if "ResourceVersionTooLarge" in causes or "Too large resource version" in message:
        return Outcome.TOO_LARGE
    if mode is Mode.STREAM and code in {400, 422}:
        return Outcome.STREAM_REFUSED
    match code:
        case 401:
            return Outcome.UNAUTHORIZED
        case 403:
            return Outcome.FORBIDDEN
        case 404:
            return Outcome.NOT_FOUND
        case 429:
            return Outcome.THROTTLED
    return Outcome.SERVER_ERROR
