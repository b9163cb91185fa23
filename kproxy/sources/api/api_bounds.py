"""Bounds on what an API server may send: generous for any cluster, and in force for any server.

A server that sends without end must not use up memory or the loop's time, and one that sends a byte
a second must not count as being read. What was known stays in force.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kproxy.sources.api import client
from kproxy.sources.api.decisions import progress


@dataclass(frozen=True, slots=True)
class Bounds:
    """`objects` of a collection are known at most; a list has at most `pages` and `list_bytes`.

    While a list or a line of a watch is under way, `slow_bytes` have to come in every
    `slow_seconds`.
    """

    objects: int = 250_000
    pages: int = 10_000
    list_bytes: int = 2 * 1024 * 1024 * 1024
    slow_bytes: int = 4 * 1024
    slow_seconds: float = 30.0


class Pace:
    """Whether bytes of one value come fast enough."""

    def __init__(self, bounds: Bounds, clock: Callable[[], float], what: str) -> None:
        self._bounds = bounds
        self._clock = clock
        self._what = what
        self.restart()

    def restart(self) -> None:
        """Begin a new window, as a value begins."""
        self._came, self._began = 0, self._clock()

    @property
    def seconds_left(self) -> float:
        """Seconds until the present window ends."""
        return self._began + self._bounds.slow_seconds - self._clock()

    def count(self, size: int) -> None:
        """Count `size` bytes that came. Raises RequestError when a window had too few."""
        self._came += size
        if self.seconds_left <= 0:
            if self._came < self._bounds.slow_bytes:
                raise self.failure()
            self.restart()

    def failure(self) -> client.RequestError:
        """The error for a value that comes too slowly."""
        least, seconds = self._bounds.slow_bytes, self._bounds.slow_seconds
        text = f"{self._what} comes too slowly, with less than {least} bytes in {seconds:g} s"
        return _excess(text)


class Meter:
    """Watches over one list. Both methods raise RequestError when a bound is passed."""

    def __init__(self, bounds: Bounds, clock: Callable[[], float]) -> None:
        self._bounds = bounds
        self._tokens: set[int] = set()
        self._bytes = 0
        self._pace = Pace(bounds, clock, "the list")

    def page(self, token: str) -> None:
        """The next page is to be asked for, by `token`; "" for the first."""
        if hash(token) in self._tokens:
            raise _excess("the server gave the same continue token twice: the list would not end")
        self._tokens.add(hash(token))
        if len(self._tokens) > self._bounds.pages:
            raise _excess(f"the list has more than {self._bounds.pages} pages")
        self._pace.restart()

    def chunk(self, size: int) -> None:
        """Count `size` bytes of a page."""
        self._bytes += size
        if self._bytes > self._bounds.list_bytes:
            raise _excess(f"the list is longer than {self._bounds.list_bytes} bytes")
        self._pace.count(size)


def too_many_objects(bounds: Bounds) -> client.RequestError:
    """The error for a collection with more objects than the bound."""
    return _excess(f"the server has more than {bounds.objects} objects of this kind")


def _excess(text: str) -> client.RequestError:
    return client.RequestError(progress.Outcome.EXCESSIVE, text)
