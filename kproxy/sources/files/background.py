"""Calls in threads, with a bound on how long the caller waits: a read can last for ever.

A hung network file system, or a pipe with a manifest's name, blocks the thread that reads it, and
no signal or flag ends that. So the threads here are daemons, for which the end of the process does
not wait, and a call that takes too long keeps its thread while the others get a new one.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")

WORK_SECONDS = 0.001
"""Seconds of CPU time after which a call in a thread rests, so that the event loop can run."""

REST_SECONDS = 0.0001
"""Seconds of that rest; without it, the event loop waits 5 ms for the interpreter lock."""

MAX_LATE = 32
"""How many calls may be late at once, each with a thread of its own."""


class Pace:
    """Called again and again by work in a thread: notes its progress, and lets others run.

    With `is_gentle` it sleeps now and then, so that the event loop can run. Before the first sync
    the event loop has nothing else to do.
    """

    def __init__(self, *, is_gentle: bool) -> None:
        self.alive = time.monotonic()
        """The monotonic time of the last sign of progress."""
        self._is_gentle = is_gentle
        self._since = time.thread_time()

    def __call__(self) -> None:
        """Call it every 0.1 ms of computing, or more often."""
        self.alive = time.monotonic()
        if self._is_gentle and time.thread_time() - self._since >= WORK_SECONDS:
            time.sleep(REST_SECONDS)
            self._since = time.thread_time()


Call = Callable[[Pace], Result]
OnLate = Callable[[], None]


class Crew(Generic[Result]):
    """Makes calls in threads, one after the other unless one takes too long.

    Lives on the running event loop. `on_late` is called there when a late call has ended; its
    result is what the next `run` with the same key gives, without making the call anew. A call
    may raise only if the process cannot go on, as without memory: `run` then raises it.
    """

    def __init__(self, on_late: OnLate) -> None:
        self._on_late = on_late
        self._late: set[object] = set()
        self._ended: dict[object, Result] = {}

    @property
    def late(self) -> int:
        """How many calls have not ended in time and are still under way."""
        return len(self._late)

    async def run(
        self, calls: Mapping[object, Call[Result]], patience: float, *, is_gentle: bool
    ) -> dict[object, Result]:
        """Make `calls`; the result of each that ended in time, by its key.

        A call is in time if it takes at most `patience` seconds; for a call that is not gentle
        they count from its last sign of progress. A call of the same key that is still under way
        from an earlier run is late again, and not made a second time.
        """
        results = {key: self._ended.pop(key) for key in calls if key in self._ended}
        self._ended.clear()
        todo = deque(
            (key, call)
            for key, call in calls.items()
            if key not in results and key not in self._late
        )
        while todo and len(self._late) < MAX_LATE:
            worker = _Worker(todo, results, self._end_late, is_gentle=is_gentle)
            try:
                overdue = await worker.overdue(patience)
            finally:
                worker.leave()
            if overdue is not None and overdue not in results:
                self._late.add(overdue)
        return results

    def _end_late(self, key: object, result: Result) -> None:
        self._late.discard(key)
        self._ended[key] = result
        self._on_late()


@dataclass(slots=True)
class _Current:
    """The call that a worker is making."""

    key: object
    pace: Pace
    started: float


class _Worker(Generic[Result]):
    """A thread that makes the calls in `todo` until they are done or it is left."""

    def __init__(
        self,
        todo: deque[tuple[object, Call[Result]]],
        results: dict[object, Result],
        end_late: Callable[[object, Result], None],
        *,
        is_gentle: bool,
    ) -> None:
        self._todo = todo
        self._results = results
        self._end_late = end_late
        self._is_gentle = is_gentle
        self._loop = asyncio.get_running_loop()
        self._done = self._loop.create_future()
        self._lock = threading.Lock()
        self._is_left = False
        self._current: _Current | None = None
        threading.Thread(target=self._work, name="manifests", daemon=True).start()

    async def overdue(self, patience: float) -> object | None:
        """The key of the call that takes too long; None when all calls have been made.

        Raises what a call has raised.
        """
        while not self._done.done():
            current = self._current
            since = time.monotonic()
            if current is not None:
                since = current.started if self._is_gentle else current.pace.alive
            remaining = since + patience - time.monotonic()
            if remaining <= 0 and current is not None:
                with self._lock:
                    if self._current is current:
                        self._is_left = True
                        return current.key
                continue
            await asyncio.wait({self._done}, timeout=max(remaining, 0.001))
        self._done.result()
        return None

    def leave(self) -> None:
        """Abandon this thread. Its call may end by itself later."""
        with self._lock:
            self._is_left = True

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._is_left or not self._todo:
                    break
                key, call = self._todo.popleft()
                now = time.monotonic()
                self._current = _Current(key, Pace(is_gentle=self._is_gentle), now)
            try:
                result = call(self._current.pace)
            except Exception as error:  # memory may be used up; the loop reports it and ends
                self._call_on_loop(self._fail, error)
                return
            with self._lock:
                self._current = None
                if self._is_left:
                    self._call_on_loop(self._end_late, key, result)
                    return
                self._results[key] = result
        self._call_on_loop(self._finish)

    def _finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self._done.done() and not self._is_left:
            self._done.set_exception(error)

    def _call_on_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(callback, *arguments)
