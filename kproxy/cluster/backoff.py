"""How long to wait before asking again: client-go's reflector backoff, with full jitter.

client-go (`tools/cache/reflector.go`) starts at 0.8 s, doubles to 30 s, and starts anew after two
minutes without a failure. The wait is drawn from all of [0, ceiling), so that a thousand clients
that lost the same server do not come back together.
"""

import random
from typing import Final

FIRST: Final = 0.8
LONGEST: Final = 30.0
HEALTHY_SECONDS: Final = 120.0
"""Nothing failed for so long: the next failure is a first one again."""

LONGEST_RETRY_AFTER: Final = 300.0
"""A server that asks for more patience than this is asked again nevertheless."""


class Backoff:
    """The waits of one client. `now` is on any clock that does not run backwards."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._ceiling = FIRST
        self._failed_at: float | None = None

    def delay(self, now: float) -> float:
        """Something failed at `now`: seconds to wait."""
        if self._failed_at is not None and now - self._failed_at > HEALTHY_SECONDS:
            self._ceiling = FIRST
        self._failed_at = now
        ceiling, self._ceiling = self._ceiling, min(2 * self._ceiling, LONGEST)
        return self._rng.uniform(0.0, ceiling)


def retry_after(header: str | None) -> float:
    """Seconds a server asks for by Retry-After (RFC 9110, 10.2.3), bounded; 0.0 if it does not.

    The form that is a date is not read: it would put our wait at the mercy of two clocks.
    """
    if not header or not header.strip().isdecimal():
        return 0.0
    return min(float(header.strip()[:9]), LONGEST_RETRY_AFTER)
