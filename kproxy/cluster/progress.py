"""What a list-and-watch does next, and how long it waits before: decisions without effects.

The rules are those of client-go's Reflector (`tools/cache/reflector.go`):

* the first list accepts any version the server has at hand ("0"), later ones ask for nothing
  older than what we have, and only when the server does not have that any more (410, or 504 "too
  large resource version") for the newest there is ("");
* a watch that ends goes on from the last version, without a list;
* a watch whose version is gone (410) is followed by a list.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from kproxy import metrics

HEALTHY_WATCH_SECONDS = 30.0
"""A watch that lasted so long ended for a good reason; the next one begins at once."""

LEAST_WATCH_SECONDS = metrics.SETTLED_SECONDS
"""A watch that ended sooner, and without a word, has failed (as in client-go)."""

FORBIDDEN_SECONDS = 60.0
"""How long to wait, at most, when a right is missing: an administrator has to act."""


class Mode(StrEnum):
    """How objects are asked for."""

    LIST = "list"
    STREAM = "stream"
    """A streaming list (KEP-3157): a watch that begins with all there is."""
    WATCH = "watch"


class Outcome(StrEnum):
    """How a list or a watch ended. The values are names of counters."""

    LISTED = "listed"
    ENDED = "ended"
    """The server closed the watch, as it does after timeoutSeconds."""
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
    UNREACHABLE = "unreachable"
    TLS_FAILED = "tls-failed"
    CREDENTIALS = "credentials"
    BROKEN_OFF = "broken-off"
    MALFORMED = "malformed"
    SILENT = "silent"
    INTERRUPTED = "interrupted"
    """We ended it, because the machine was asleep: the connection may be dead."""
    BUG = "bug"


class Wait(StrEnum):
    """What to wait for before the next request."""

    NOTHING = "nothing"
    BACKOFF = "backoff"
    PERMISSION = "permission"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a list-and-watch stands.

    `version` is the newest resourceVersion seen, "" before the first list. `is_listed`: the
    next request is a watch from it. `is_gone`: the server no longer has it. `streams`: streaming
    lists have not been refused.
    """

    version: str = ""
    is_listed: bool = False
    is_gone: bool = False
    streams: bool = True

    @property
    def mode(self) -> Mode:
        """What the next request is."""
        if self.is_listed:
            return Mode.WATCH
        return Mode.STREAM if self.streams else Mode.LIST

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


def after(position: Position, outcome: Outcome) -> Position:
    """Where a failed list, or an ended watch, leads."""
    match outcome:
        case Outcome.EXPIRED | Outcome.TOO_LARGE if position.is_listed:
            return replace(position, is_listed=False)
        case Outcome.EXPIRED | Outcome.TOO_LARGE:
            return replace(position, is_gone=True)
        case Outcome.STREAM_REFUSED:
            return replace(position, streams=False)
        case Outcome.NOT_FOUND | Outcome.MALFORMED | Outcome.BUG:
            # What could not be understood would come again: only a list leads past it.
            return replace(position, is_listed=False)
    return position


def listed(position: Position, version: str) -> Position:
    """A list is complete, at `version`."""
    return replace(position, version=version, is_listed=True, is_gone=False)


def wait_after(position: Position, outcome: Outcome, lasted: float) -> Wait:
    """What to wait for after a request, made from `position`, that lasted so many seconds."""
    match outcome:
        case Outcome.LISTED | Outcome.STREAM_REFUSED | Outcome.INTERRUPTED:
            return Wait.NOTHING
        case Outcome.FORBIDDEN:
            return Wait.PERMISSION
        case Outcome.EXPIRED | Outcome.TOO_LARGE if not position.is_listed and not position.is_gone:
            return Wait.NOTHING
    if position.is_listed and lasted >= HEALTHY_WATCH_SECONDS:
        return Wait.NOTHING
    return Wait.BACKOFF


def is_trouble(outcome: Outcome, lasted: float) -> bool:
    """Whether users should hear of it, for it is not how servers live with their clients.

    A connection that is lost after a while is nothing: an API server was restarted.
    """
    match outcome:
        case Outcome.LISTED | Outcome.ENDED | Outcome.STREAM_REFUSED | Outcome.INTERRUPTED:
            return False
        case Outcome.EXPIRED | Outcome.TOO_LARGE:
            return False
        case Outcome.BROKEN_OFF:
            return lasted < HEALTHY_WATCH_SECONDS
    return True


def is_healed(lasted: float, *, was_answered: bool) -> bool:
    """Whether a trouble is over, now that a request of `lasted` seconds brings sensible bytes.

    If the request in trouble had been answered, and only the answer was bad, then not before
    this one has gone well for some time: else a server whose every answer begins well and ends
    badly would be told of again and again.
    """
    return not was_answered or lasted >= LEAST_WATCH_SECONDS


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
        case 429 | 503:
            return Outcome.THROTTLED
    return Outcome.SERVER_ERROR
