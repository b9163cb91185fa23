"""An event loop whose clock jumps: what waits an hour takes no time, and the same time each run.

When every task waits and no socket is ready, the clock goes straight to the next timer. Nothing
sleeps. When there is no timer either, no task can ever go on, and that is an error at once
instead of a test that hangs.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple, Unpack

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class StuckError(Exception):
    """Every task waits, and nothing is left that could wake one."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` starts at 0 and moves only by jumping to the next timer.

    Sockets work as far as both ends live on this loop. What is given to a thread runs at once and
    in place: a thread's result would come in real time, which does not pass here.
    """

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self.now

    def run_in_executor(
        self, executor: Any, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Call `func` now, in this thread."""
        del executor
        done: asyncio.Future[_T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done


class _JumpingSelector(selectors.DefaultSelector):
    """Polls without waiting, and moves its loop's clock where a real one would have waited."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise StuckError("every task waits, and there is no timer")
        if not ready and timeout is not None and timeout > 0:
            self._loop.now += timeout
        return ready


def run(main: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run `main()` to its end on a new loop with a clock of its own; returns its result."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())
