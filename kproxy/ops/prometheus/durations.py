"""Durations as Prometheus counts them, and the event loop's lag, which is one."""

import asyncio
import bisect
import itertools
from collections.abc import Sequence

LAG_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_LAG_SECONDS = 0.25
"""Seconds between two measurements: rare enough to cost nothing, and every long stall meets one."""


class Histogram:
    """How many durations fell into which bucket. `bounds` are upper ones, inclusive, in seconds."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration, in seconds."""
        self._counts[bisect.bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds

    def cumulative(self) -> list[tuple[float, int]]:
        """Each bound with the number of durations not above it; infinity comes last."""
        return list(
            zip((*self._bounds, float("inf")), itertools.accumulate(self._counts), strict=True)
        )


async def watch_lag(lag: Histogram) -> None:
    """Keep measuring by how much the event loop is late for a timer, until cancelled."""
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + _LAG_SECONDS
        await asyncio.sleep(_LAG_SECONDS)
        lag.observe(max(clock() - due, 0.0))
