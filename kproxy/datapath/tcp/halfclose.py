"""How a relayed connection ends: pure decisions, and the words for them.

A connection has two directions. Each one ends in one of two ways: its source sent FIN and every
byte before it has been passed on, or its source was reset. The promise (docs/faults.md,
finding 1) is that a peer sees a clean FIN only if everything arrived; so an EOF is relayed as
shutdown(SHUT_WR), a reset as a reset, and neither ever as the other.
"""

from collections.abc import Mapping
from typing import Final, Literal, get_args

_Relayed = Literal[
    "C/H", "B/H", "C/X", "B/X", "C/D", "B/D", "P/D", "T/H", "T/X", "R/D", "K/X", "P/X"
]
_OfHeaders = Literal["C/P", "P/P", "T/P"]
_OfLifetimes = Literal["A/H", "A/X", "E/H", "E/X"]
Reason = Literal[_Relayed, _OfHeaders, _OfLifetimes]
"""What ended a connection, and in which phase; two letters, after HAProxy's idea.

First: C client, B backend, P proxy policy, T timeout, R resource, K killed at exit, A the
connection's age, E its endpoint's removal.
Second: P before the PROXY header was whole, D while dialling, X while data could flow both ways,
H half-closed.
"""

REASONS: Final[tuple[Reason, ...]] = get_args(Reason)

CLIENT_CLOSED: Final = "C/H"
BACKEND_CLOSED: Final = "B/H"
CLIENT_RESET: Final = "C/X"
BACKEND_RESET: Final = "B/X"
CLIENT_LEFT_DIAL: Final = "C/D"
DIAL_FAILED: Final = "B/D"
NO_ENDPOINTS: Final = "P/D"
HALF_CLOSE_TIMEOUT: Final = "T/H"
IDLE_TIMEOUT: Final = "T/X"
NO_RESOURCES: Final = "R/D"
KILLED: Final = "K/X"
BUG: Final = "P/X"
LEFT_HEADER: Final = "C/P"
BAD_HEADER: Final = "P/P"
HEADER_TIMEOUT: Final = "T/P"
AGED: Final = "A/H"
AGED_RESET: Final = "A/X"
REMOVED: Final = "E/H"
REMOVED_RESET: Final = "E/X"


MEANING: Final[Mapping[Reason, str]] = {
    CLIENT_CLOSED: "the client closed first, then the endpoint",
    BACKEND_CLOSED: "the endpoint closed first, then the client",
    CLIENT_RESET: "the client reset the connection or is gone",
    BACKEND_RESET: "the endpoint reset the connection or is gone",
    CLIENT_LEFT_DIAL: "the client left before an endpoint was reached",
    DIAL_FAILED: "no endpoint could be reached",
    NO_ENDPOINTS: "there is no endpoint that may be dialled",
    HALF_CLOSE_TIMEOUT: "half-closed, and no byte moved for too long",
    IDLE_TIMEOUT: "no byte moved for too long",
    NO_RESOURCES: "this host had no port, descriptor or memory left",
    KILLED: "the proxy ended",
    BUG: "a bug in the proxy",
    LEFT_HEADER: "the proxy in front left before its PROXY header was whole",
    BAD_HEADER: "the proxy in front sent no PROXY header that is accepted",
    AGED: "older than its Service allows: ended at a quiet moment",
    AGED_RESET: "older than its Service allows, and never quiet: reset",
    REMOVED: "its endpoint was removed: ended at a quiet moment",
    REMOVED_RESET: "its endpoint was removed: reset",
    HEADER_TIMEOUT: "the proxy in front sent no whole PROXY header in time",
}
"""Each reason in words, for people."""

Action = Literal["half-close", "close", "abort"]
"""What the relay does when a direction has ended."""

HALF_CLOSE: Final = "half-close"
"""Send FIN to its destination; the opposite direction goes on."""
CLOSE: Final = "close"
"""Both directions have ended in order: close both sockets; close(2) sends the last FIN."""
ABORT: Final = "abort"
"""Reset both sockets."""


AFTER_END: Final[tuple[tuple[Action, Action], tuple[Action, Action]]] = (
    (HALF_CLOSE, CLOSE),
    (ABORT, ABORT),
)
"""The action when a direction has ended and all its bytes have been passed on.

`AFTER_END[failed][opposite]`: whether either socket has been reset (the source, so that its end
is not in order; or the destination, so that what was sent last never arrived), and whether the
opposite direction has ended before. A table, because it is asked twice in every connection.
"""
