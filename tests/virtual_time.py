"""An event loop whose clock jumps: what waits an hour takes no time, and the same time each run.

When every task waits and no socket is ready, the clock goes straight to the next timer. Nothing
sleeps. When there is no timer either, no task can ever go on, and that is an error at once
instead of a test that hangs.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack

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


_SOFTNET: Final = Path("/proc/net/softnet_stat")
_BACKLOG: Final = 11
"""The column of a CPU's packets on their way (net/core/net-procfs.c, Linux 5.10 or newer)."""
_MOST_WAITS: Final = 200


def _packets_on_their_way() -> bool:
    """Whether a CPU has packets that it has not delivered yet, of this process or of another."""
    try:
        lines = _SOFTNET.read_text().splitlines()
    except OSError:
        return False
    return any(int(cpu[_BACKLOG], 16) for cpu in map(str.split, lines) if len(cpu) > _BACKLOG)


class _JumpingSelector(selectors.DefaultSelector):
    """Polls without waiting, and moves its loop's clock where a real one would have waited.

    On a busy machine the kernel delivers what loopback sockets send a moment later, in a thread of
    its own. The clock does not jump over such a moment: it would look like a silent peer.
    """

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        for _ in range(_MOST_WAITS):
            if ready or timeout == 0 or not _packets_on_their_way():
                break
            ready = super().select(0.001)
        if not ready and timeout is None:
            raise StuckError("every task waits, and there is no timer")
        if not ready and timeout is not None and timeout > 0:
            self._loop.now += timeout
        return ready


def run(main: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run `main()` to its end on a new loop with a clock of its own; returns its result."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())
