"""A controller: learns *that* something changed, looks at what is true now, and acts on it.

Level-triggered and coalescing, in the manner of client-go's workqueue: a key that is dirty
several times over is reconciled once, and one that becomes dirty while it is reconciled once
more. `reconcile` is a plain function over the in-memory registry and never waits, so keys are
taken one after another; between two of them the event loop gets its turn.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from kproxy.model import names

FIRST_RETRY = 0.05
LONGEST_RETRY = 30.0

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Failure:
    """What is kept about a key whose last reconcile raised."""

    text: str
    delay: float


class Controller:
    """Runs `reconcile(key)` for every key that was enqueued, in order, until cancelled.

    `reconcile` returns None, or the seconds after which it wants to see the key again. A failure
    affects no other key: it is logged once until its text changes, and tried again
    with a backoff that doubles from 50 ms to 30 s.
    """

    def __init__(
        self, name: str, reconcile: Callable[[names.NamespacedName], float | None]
    ) -> None:
        self.name = name
        self._reconcile = reconcile
        self._dirty: dict[names.NamespacedName, None] = {}
        self._awake = asyncio.Event()
        self._timers: dict[names.NamespacedName, asyncio.TimerHandle] = {}
        self._failures: dict[names.NamespacedName, _Failure] = {}

    def enqueue(self, key: names.NamespacedName) -> None:
        """`key` is dirty: reconcile it soon."""
        self._dirty[key] = None
        self._awake.set()

    async def run(self) -> None:
        """Reconcile what is dirty, until cancelled."""
        try:
            while True:
                await self._awake.wait()
                while self._dirty:
                    key = next(iter(self._dirty))
                    del self._dirty[key]
                    self._process(key)
                    await asyncio.sleep(0)
                self._awake.clear()
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    def _process(self, key: names.NamespacedName) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()
        try:
            again = self._reconcile(key)
        except Exception as error:
            again = self._failed(key, error)
        else:
            self._failures.pop(key, None)
        if again is not None:
            loop = asyncio.get_running_loop()
            self._timers[key] = loop.call_later(again, self._expire, key)

    def _expire(self, key: names.NamespacedName) -> None:
        self._timers.pop(key, None)
        self.enqueue(key)

    def _failed(self, key: names.NamespacedName, error: Exception) -> float:
        """Seconds until the next try."""
        failure = self._failures.get(key)
        text = f"{type(error).__name__}: {error}"
        if failure is None or failure.text != text:
            _log.error("reconcile failed", controller=self.name, key=str(key), error=text)
        delay = min(2 * failure.delay, LONGEST_RETRY) if failure else FIRST_RETRY
        self._failures[key] = _Failure(text, delay)
        return delay
