"""A clock that does not count the time in which this process could not run, and its event loop.

A machine that is busy, or stopped for a moment, lets a process wait for seconds. On the clock of
the kernel all timers are due at once then: what a test meant to do long before a timeout comes
after it. This clock goes at most `_MOST_SECONDS` further between two looks at it, and its loop
looks at it all the time. Between a timer and one that is due much later, the loop therefore has
many turns, however long the process was stopped. Timers of the kernel go on meanwhile.
"""

import asyncio
import contextlib
import selectors
import sys
import time
import types
from collections.abc import Iterator
from typing import Final
from unittest import mock

_LOOK_SECONDS: Final = 0.01
"""After which a loop that waits looks at the clock again."""

_MOST_SECONDS: Final = 0.025
"""By which the clock goes on between two looks."""


class _Clock:
    def __init__(self) -> None:
        self._now = self._seen = time.monotonic()

    def monotonic(self) -> float:
        seen = time.monotonic()
        self._now += min(max(seen - self._seen, 0.0), _MOST_SECONDS)
        self._seen = seen
        return self._now


_clock = _Clock()


def monotonic() -> float:
    """Seconds since some moment, without those in which this process could not run."""
    return _clock.monotonic()


@contextlib.contextmanager
def given_to(*modules: types.ModuleType) -> Iterator[None]:
    """Let modules that ask `time.monotonic()` have this clock for a block."""
    with contextlib.ExitStack() as stack:
        for each in modules:
            stack.enter_context(mock.patch.object(each, "time", sys.modules[__name__]))
        yield


class _Selector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(_LOOK_SECONDS if timeout is None else min(timeout, _LOOK_SECONDS))


class SteadyLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` is `monotonic()`."""

    def __init__(self) -> None:
        super().__init__(_Selector())

    def time(self) -> float:
        return monotonic()
