"""When to sync: at once if it has been quiet, coalesced if not, and every so often anyway.

The rule is that of kube-proxy's BoundedFrequencyRunner (`pkg/util/async`): a minimum interval
with a burst of 2, and a periodic full sync. Its minimum is 1 s because each sync rewrites
netfilter; ours touches only what changed, and an edit is to be in force within 200 ms, so the
default minimum is 50 ms.

A sync of everything at 10,000 Services takes longer than a relay may be kept waiting. So a sync
is an iterator, and the runner lets the event loop turn between its steps.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

import structlog

from kproxy import turns

_log = structlog.get_logger(__name__)

FIRST_RETRY = 1.0
LONGEST_RETRY = 30.0

Sync: TypeAlias = Callable[[], Iterable[object]]
"""A sync in steps, each of less than a millisecond. The values that it yields are ignored."""


class Pacing:
    """A token bucket: at most `burst` syncs at once, then one per `interval` seconds. Pure."""

    def __init__(self, interval: float, burst: int) -> None:
        self._interval = interval
        self._burst = burst
        self._tokens = float(burst)
        self._filled_at: float | None = None

    def delay(self, now: float) -> float:
        """Seconds until a sync is allowed; 0 when it is."""
        self._fill(now)
        return max((1.0 - self._tokens) * self._interval, 0.0)

    def spend(self, now: float) -> None:
        """Take the token of a sync that runs now."""
        self._fill(now)
        self._tokens -= 1.0

    def _fill(self, now: float) -> None:
        if self._filled_at is not None and self._interval > 0:
            gained = (now - self._filled_at) / self._interval
            self._tokens = min(self._tokens + gained, float(self._burst))
        elif self._interval <= 0:
            self._tokens = float(self._burst)
        self._filled_at = now


class Runner:
    """Runs `sync` when requested, no more often than `Pacing` allows.

    `full_sync` runs instead every `period` seconds, and, with a backoff of 1 s doubling to 30 s,
    for as long as `wants_retry` returns true.
    """

    def __init__(
        self,
        sync: Sync,
        full_sync: Sync,
        wants_retry: Callable[[], bool],
        *,
        interval: float = 0.05,
        burst: int = 2,
        period: float = 30.0,
        stopwatch: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sync = sync
        self._full_sync = full_sync
        self._wants_retry = wants_retry
        self._pacing = Pacing(interval, burst)
        self._period = period
        self._stopwatch = stopwatch
        self._requested = asyncio.Event()
        self._is_full_due = False
        self._retry = FIRST_RETRY
        self.failures = 0
        """Syncs that raised: bugs, contained."""

    def request(self) -> None:
        """Request a sync of what is dirty."""
        self._requested.set()

    def request_full(self) -> None:
        """Request a full sync."""
        self._is_full_due = True
        self._requested.set()

    async def run(self) -> None:
        """Sync on request and periodically, until cancelled."""
        clock = asyncio.get_running_loop().time
        full_at = clock() + self._period
        while True:
            is_requested = await self._wait_until(full_at)
            if delay := self._pacing.delay(clock()):
                await asyncio.sleep(delay)
            self._requested.clear()
            now = clock()
            self._pacing.spend(now)
            is_full_due, self._is_full_due = self._is_full_due, False
            if is_requested and now < full_at and not is_full_due:
                await self._run(self._sync)
                full_at = min(full_at, now + self._patience())
            else:
                if self._wants_retry():
                    self._retry = min(2 * self._retry, LONGEST_RETRY)
                await self._run(self._full_sync)
                full_at = now + self._patience()

    def _patience(self) -> float:
        """Seconds from a sync to the next full one."""
        if self._wants_retry():
            return min(self._retry, self._period)
        self._retry = FIRST_RETRY
        return self._period

    async def _wait_until(self, moment: float) -> bool:
        """Whether a request came before `moment`, on the event loop's clock."""
        try:
            async with asyncio.timeout_at(moment):
                await self._requested.wait()
        except TimeoutError:
            return False
        return True

    async def _run(self, sync: Sync) -> None:
        """Run one sync. An exception is a bug; the next full sync may repair its effects."""
        try:
            await turns.in_slices(sync(), self._stopwatch)
        except Exception:
            self.failures += 1
            _log.exception("internal error: sync failed, retrying at the next full sync")
