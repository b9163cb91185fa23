"""How long to wait before the next request: client-go's reflector backoff, with full jitter.

client-go (`tools/cache/reflector.go`) starts at 0.8 s, doubles to 30 s, and starts anew after two
minutes without a failure. The wait is drawn from all of [0, ceiling), so that a thousand clients
that lost the same server do not come back together.

A server that is away, or whose trouble is young, is asked again within `SOON` seconds, which
client-go does not do: a proxy should follow a server that has come back within five seconds.
"""

import math
import random
from typing import Final

FIRST: Final = 0.8
LONGEST: Final = 30.0
SOON: Final = 4.0
"""The ceiling while `progress.is_patient` does not hold. With a request's own time: under 5 s."""

PERMISSION_FIRST: Final = 1.0
PERMISSION_LONGEST: Final = SOON
"""A server that loads its roles answers 403 for a moment; a right granted counts within 5 s."""

HEALTHY_SECONDS: Final = 120.0
"""After this long without a failure the next one counts as the first."""

LONGEST_RETRY_AFTER: Final = 300.0
"""The longest Retry-After that is obeyed."""


class Backoff:
    """The waits of one client. `now` is on any clock that does not run backwards.

    Each wait is drawn from [`least` x ceiling, ceiling). The first ceiling is `first`, the
    highest `longest`, in seconds.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        first: float = FIRST,
        longest: float = LONGEST,
        least: float = 0.0,
    ) -> None:
        self._rng = rng
        self._first = first
        self._longest = longest
        self._least = least
        self._ceiling = first
        self._failed_at: float | None = None

    def delay(self, now: float, *, at_most: float = math.inf) -> float:
        """Count a failure at `now`; returns the seconds to wait, at most `at_most`."""
        if self._failed_at is not None and now - self._failed_at > HEALTHY_SECONDS:
            self._ceiling = self._first
        self._failed_at = now
        ceiling, self._ceiling = self._ceiling, min(2 * self._ceiling, self._longest)
        ceiling = min(ceiling, at_most)
        return self._rng.uniform(self._least * ceiling, ceiling)

    def reset(self) -> None:
        """Start anew: the next failure counts as the first."""
        self._ceiling = self._first


def retry_after(header: str | None) -> float:
    """Seconds a server asks for by Retry-After (RFC 9110, 10.2.3), bounded; 0.0 if it does not.

    A date is not read: the wait would depend on the server's clock and on ours.
    """
    if not header or not header.strip().isdecimal():
        return 0.0
    return min(float(header.strip()[:9]), LONGEST_RETRY_AFTER)
