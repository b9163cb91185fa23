"""Why a flow of datagrams ends: the words for it."""

from collections.abc import Mapping
from typing import Final, Literal, get_args

Reason = Literal["T/X", "R/X", "F/X", "P/D", "R/D", "P/X"]
"""What ended a flow; two letters, as `tcp.halfclose.Reason`: F stands for its frontend."""

REASONS: Final[tuple[Reason, ...]] = get_args(Reason)

IDLE: Final = "T/X"
MADE_WAY: Final = "R/X"
FRONTEND_CLOSED: Final = "F/X"
NO_ENDPOINTS: Final = "P/D"
NO_RESOURCES: Final = "R/D"
BUG: Final = "P/X"

MEANING: Final[Mapping[Reason, str]] = {
    IDLE: "no datagram moved for too long",
    MADE_WAY: "the table of flows was full, and a newer flow took its place",
    FRONTEND_CLOSED: "its frontend was closed",
    NO_ENDPOINTS: "there is no endpoint that may be used",
    NO_RESOURCES: "this host had no port, descriptor or memory left",
    BUG: "a bug in the proxy",
}
"""Each reason in words, for people."""
