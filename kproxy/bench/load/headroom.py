"""How near a generator or a backend is to its own limit: the share of time in which it works.

A loop that always finds work ready is the limit of the figure, not the subject.
Time in which it was ready and another process had the processor counts as busy: on a full machine
there is no headroom, and the report says so.
"""

import select
import time
from typing import Final

LIMIT: Final = 0.9
"""A generator or backend that is busier than this is at its limit."""

_SATURATED: Final = 0.8
"""A subject with one thread that used more of one processor than this is the limit itself."""


def busy(elapsed: float, waited: float) -> float:
    """The share of time not spent waiting, from 0 to 1."""
    return max(0.0, 1.0 - waited / max(elapsed, 1e-9))


def bottleneck(generator: float, backend: float, subject: float) -> str | None:
    """What, if not the subject, limits a closed loop; None when the subject does.

    `generator` and `backend` are shares of time not spent waiting, `subject` is the CPU seconds
    per second that the subject used.
    """
    if subject > _SATURATED or max(generator, backend) <= LIMIT:
        return None
    busiest, share = max(("the load generator", generator), ("the backend", backend), key=_share)
    return (
        f"{busiest} is the bottleneck (busy {share:.0%} of the time, the subject used "
        f"{subject:.0%} of a core): it can do more than this figure"
    )


def _share(pair: tuple[str, float]) -> float:
    return pair[1]


class Poll:
    """An epoll that counts how long it has waited. Its maker closes it.

    Make it before many files are open, and reuse it: it waits with select(2), which takes only
    descriptors below 1,024.
    """

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.waited = 0.0
        self._began = time.perf_counter()

    def events(self, timeout: float | None = None) -> list[tuple[int, int]]:
        """What is ready, after at most `timeout` seconds (None: wait for ever)."""
        began = time.perf_counter()
        if timeout is None:
            ready = self.epoll.poll()
        else:
            if timeout > 0:
                # epoll_wait(2) counts in milliseconds, and rounds up; select(2) in microseconds.
                select.select([self.epoll], [], [], timeout)
            ready = self.epoll.poll(0)
        self.waited += time.perf_counter() - began
        return ready

    def restart(self) -> None:
        """Start counting `busy` from now."""
        self.waited = 0.0
        self._began = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the start, or the last `restart`."""
        return time.perf_counter() - self._began

    @property
    def busy(self) -> float:
        """The share of the elapsed time that was not spent waiting, from 0 to 1."""
        return busy(self.elapsed, self.waited)

    def close(self) -> None:
        """Close the epoll; what was registered with it stays open."""
        self.epoll.close()
