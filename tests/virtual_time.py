"""An event loop whose clock jumps: what waits an hour takes no time, and the same time each run.

When every task waits and no socket is ready, the clock goes straight to the next timer. Nothing
sleeps. When there is no timer either, no task can ever go on, and that is an error at once
instead of a test that hangs.
"""

import asyncio
import os
import selectors
import socket
import time
from collections.abc import Callable, Coroutine
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
        self.connecting = 0
        """Sockets whose handshake is under way."""
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self.now

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """As an event loop's; meanwhile the clock stands still."""
        self.connecting += 1
        try:
            await super().sock_connect(sock, address)
        finally:
            self.connecting -= 1

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


_MOST_SECONDS: Final = 10.0
"""Of real time, until the kernel has delivered what this process has sent."""


class _Sentinel:
    """Says when the kernel has delivered all that sockets of this process have sent on loopback.

    On a busy machine the kernel delivers packets a moment later, in a thread of its own: those of
    each CPU in their order. A datagram that is there as soon as it is sent had nothing before it.
    So this thread stays on one CPU until `close`; on another one its datagram would overtake.
    """

    def __init__(self) -> None:
        self._allowed = os.sched_getaffinity(0)
        cpus = sorted(self._allowed)
        os.sched_setaffinity(0, {cpus[_worker() % len(cpus)]})
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.connect(self._socket.getsockname())
        self._socket.settimeout(_MOST_SECONDS)

    def wait(self) -> None:
        """Return when nothing is on its way."""
        while not self._arrives_at_once():
            self._socket.recv(1)

    def _arrives_at_once(self) -> bool:
        self._socket.send(b"!")
        try:
            return bool(self._socket.recv(1, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False

    def close(self) -> None:
        self._socket.close()
        os.sched_setaffinity(0, self._allowed)


def _worker() -> int:
    """The number of this process among those that run tests: each CPU gets its share of them."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


class _JumpingSelector(selectors.DefaultSelector):
    """Polls without waiting, and moves its loop's clock where a real one would have waited.

    The clock never jumps over packets on their way: that would look like a silent peer. Nor over a
    handshake: on a busy machine its first packet may be lost, and is sent again in real time.
    """

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop
        self._sentinel = _Sentinel()
        self._left = _MOST_SECONDS
        """Real seconds that all handshakes of the loop may take: one may never be answered."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            self._sentinel.wait()
            ready = super().select(0)
        if not ready and timeout != 0 and self._loop.connecting and self._left > 0:
            began = time.monotonic()
            ready = super().select(self._left)
            self._left -= time.monotonic() - began
        if not ready and timeout is None:
            raise StuckError("every task waits, and there is no timer")
        if not ready and timeout is not None and timeout > 0:
            self._loop.now += timeout
        return ready

    def close(self) -> None:
        self._sentinel.close()
        super().close()


async def until(condition: Callable[[], object], seconds: float) -> None:
    """Wait for `condition`; it is noticed 0.05 s later, or 2 % late. Raises TimeoutError."""
    time = asyncio.get_running_loop().time
    start = time()
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # conditions of all kinds
            await asyncio.sleep(max(0.05, 0.02 * (time() - start)))


def run(main: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run `main()` to its end on a new loop with a clock of its own; returns its result."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())
