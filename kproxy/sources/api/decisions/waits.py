"""How long one list-and-watch waits before its next request, by the reason for the wait."""

import random

from kproxy.sources.api.decisions import progress
from kproxy.sources.transfer import backoff


class Waits:
    """The waits of one list-and-watch. `now` is on any clock that does not run backwards."""

    def __init__(self, rng: random.Random) -> None:
        self._failures = backoff.Backoff(rng)
        self._permission = backoff.Backoff(
            rng,
            first=backoff.PERMISSION_FIRST,
            longest=backoff.PERMISSION_LONGEST,
            least=0.5,
        )
        self._relisted_at: float | None = None
        self._refused_list = False
        self.refusals = 0
        """Requests of one verb in a row that were answered 403."""

    def refused(self, *, is_list: bool) -> None:
        """A request was answered 403."""
        self.refusals = 1 if is_list != self._refused_list else self.refusals + 1
        self._refused_list = is_list

    def admitted(self, *, is_list: bool) -> None:
        """A request was answered. Its verb is permitted; the other one may still be forbidden."""
        if is_list == self._refused_list:
            self.refusals = 0
            self._permission.reset()

    def seconds(self, wait: progress.Wait, now: float, *, is_patient: bool) -> float:
        """Count a reason to wait, at `now`; returns the seconds to wait.

        Without `is_patient` they stay under `backoff.SOON`.
        """
        if wait is progress.Wait.RELIST:
            last, self._relisted_at = self._relisted_at, now
            if last is None or now - last > progress.HEALTHY_WATCH_SECONDS:
                return 0.0
        if wait is progress.Wait.NOTHING:
            return 0.0
        if wait is progress.Wait.PERMISSION:
            return self._permission.delay(now)
        return self._failures.delay(now, at_most=backoff.LONGEST if is_patient else backoff.SOON)
