"""Log once that a trouble has begun, and once, with a count, that it is over.

A trouble that many clients meet is one line in the log and not one for each of them: a full log
hides what else happens, and writing it takes the time that clients wait for.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

QUIET_SECONDS = 5.0
"""An episode is over when nothing of its kind has happened for so long."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of trouble: the messages of both lines, and what the last one calls the count."""

    began: str
    ended: str
    counted: str


FULL = Kind(
    "connection limit reached: new clients wait in the kernel's queue",
    "below the connection limit again",
    "clients_that_waited",
)
EXHAUSTED = Kind(
    "cannot accept: descriptors or memory are short, retrying", "accepting again", "failed_accepts"
)
UNREACHABLE = Kind(
    "no endpoint reachable, client reset", "no client was reset lately", "clients_reset"
)
TURNED_AWAY = Kind(
    "client reset: it fell to the share of a backend that cannot be used, see kproxy get routes",
    "no client fell to such a share lately",
    "clients_reset",
)
REFUSED = Kind(
    "endpoint refuses datagrams, and no other one could have them",
    "no datagram was refused lately",
    "datagrams_lost",
)
FLOWS_FULL = Kind(
    "table of UDP flows full: the least recently used make way for new ones; --max-udp-flows and "
    "ulimit -n bound it",
    "no UDP flow had to make way lately",
    "flows_ended",
)
NO_HEADER = Kind(
    "connection from an address of --proxy-protocol-from reset: no PROXY header came first",
    "PROXY headers were all accepted lately",
    "connections_reset",
)
LOOP = Kind(
    "endpoint leads back to this proxy, connection cut: Services point at each other",
    "no connection came back to this proxy lately",
    "cut",
)
STALLED = Kind(
    "recovered a stalled connection: please report this",
    "no connection has stalled lately",
    "recovered",
)


class Episodes:
    """The troubles of one data path that are going on now. Owns a timer for each of them.

    An episode is of one kind and at one place, such as a service port; "" stands for the whole
    data path.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[Kind, str], _Episode] = {}

    def note(
        self,
        kind: Kind,
        place: str = "",
        details: Callable[[], dict[str, object]] = dict,
        times: int = 1,
        goes_on: Callable[[], bool] = lambda: False,
    ) -> None:
        """It has happened, `times` times. `details` gives more keys for the first line, if it is
        written; all that is shown later is the count. The episode is not over while `goes_on`."""
        known = self._open.get((kind, place))
        if known is not None:
            known.last = known.loop.time()
            known.count += times
            return
        where: dict[str, object] = {"service": place} if place else {}
        _log.warning(kind.began, **where, **details())
        self._open[kind, place] = _Episode(times, goes_on, lambda: self._end(kind, place))

    def is_open(self, kind: Kind, place: str = "") -> bool:
        """Whether that goes on now."""
        return (kind, place) in self._open

    def close(self) -> None:
        """End every episode now, each with its line."""
        for kind, place in list(self._open):
            self._end(kind, place)

    def _end(self, kind: Kind, place: str) -> None:
        over = self._open.pop((kind, place))
        over.timer.cancel()
        where: dict[str, object] = {"service": place} if place else {}
        seconds = round(over.last - over.began, 3)
        _log.info(kind.ended, **where, **{kind.counted: over.count}, seconds=seconds)


class _Episode:
    """When it began and last happened, on the event loop's clock, and how often it has."""

    __slots__ = ("_goes_on", "_on_over", "began", "count", "last", "loop", "timer")

    def __init__(
        self, times: int, goes_on: Callable[[], bool], on_over: Callable[[], None]
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.began = self.last = self.loop.time()
        self.count = times
        self._goes_on = goes_on
        self._on_over = on_over
        self.timer = self.loop.call_later(QUIET_SECONDS, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        if self._goes_on():
            self.last = now
        left = self.last + QUIET_SECONDS - now
        if left > 0:
            self.timer = self.loop.call_later(left, self._look)
        else:
            self._on_over()
