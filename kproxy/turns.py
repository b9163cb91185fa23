"""Long computations on a thread that also relays bytes: in slices, each a few milliseconds long.

A thread would not do: while it computes it holds the interpreter's lock for up to 5 ms at a time,
and the data path gives that lock away with every system call.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from typing import TypeVar

SLICE = 0.002
"""How many seconds of work may pass before everything else on the event loop has its turn."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Turns:
    """Shares the event loop between long computations and everything else.

    However many computations there are, each turn of the loop carries one slice of one of them.
    """

    def __init__(self) -> None:
        self._one_at_a_time = asyncio.Lock()

    async def batches(self, items: Iterable[_Item]) -> AsyncGenerator[list[_Item], None]:
        """`items`, as many at a time as a slice yields. One should take less than a millisecond."""
        left = iter(items)
        is_done = False
        while not is_done:
            async with self._one_at_a_time:
                batch, is_done = _slice(left)
                # Here, and not after letting the next one in: it would run in this same turn.
                await asyncio.sleep(0)
            yield batch

    async def result(self, steps: Generator[object, None, _Result]) -> _Result:
        """Take all `steps`, and return what they return."""
        results: list[_Result] = []

        def run() -> Iterator[object]:
            results.append((yield from steps))

        async for _ in self.batches(run()):
            pass
        return results[0]


class Slice:
    """The time that a computation has until everything else on the event loop has its turn.

    `clock` must be one that moves while the loop does not turn: uvloop reads its own once a turn.
    """

    __slots__ = ("_clock", "_ends")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.begin()

    def begin(self) -> None:
        """The loop has turned: a new slice of time begins."""
        self._ends = self._clock() + SLICE

    @property
    def is_over(self) -> bool:
        """Whether the event loop should turn before more is computed."""
        return self._clock() >= self._ends


async def in_slices(steps: Iterable[object], clock: Callable[[], float] = time.monotonic) -> None:
    """Take all `steps`, each of which should take less than a millisecond, a slice a turn."""
    time_left = Slice(clock)
    for _ in steps:
        if time_left.is_over:
            await asyncio.sleep(0)
            time_left.begin()


def _slice(left: Iterable[_Item]) -> tuple[list[_Item], bool]:
    """What one slice of time yields, and whether that was all."""
    time_left = Slice()
    batch = []
    for item in left:
        batch.append(item)
        if time_left.is_over:
            return batch, False
    return batch, True
