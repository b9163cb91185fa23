"""Long computations on a thread that also relays bytes: in slices, each a few milliseconds long.

A thread would not do: while it computes it holds the interpreter's lock for up to 5 ms at a time,
and the data path gives that lock away with every system call.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from typing import TypeVar

SLICE = 0.002
"""How many seconds of work may pass before everything else on the event loop has its turn."""

_Item = TypeVar("_Item")


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


def _slice(left: Iterable[_Item]) -> tuple[list[_Item], bool]:
    """What one slice of time yields, and whether that was all."""
    # Not the loop's clock: uvloop reads it once per turn, and a turn is what is measured.
    ends = time.monotonic() + SLICE
    batch = []
    for item in left:
        batch.append(item)
        if time.monotonic() >= ends:
            return batch, False
    return batch, True
