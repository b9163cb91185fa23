"""What a server leaves for the garbage collector, which runs seldom in a proxy."""

import contextlib
import gc
from collections.abc import Awaitable, Callable
from typing import TypeVar

import uvloop

_Place = TypeVar("_Place")

MARGIN = 25
"""Objects by which two counts may differ though nothing is left: what the interpreter keeps."""


def counted(
    serving: Callable[[], contextlib.AbstractAsyncContextManager[_Place]],
    visit: Callable[[_Place, int], Awaitable[None]],
) -> tuple[int, int]:
    """How many objects only the collector frees after 10 visits, and after 60 further ones.

    `visit` is given what `serving` yields, and how often to visit it. On uvloop, as in production:
    each transport of asyncio's own loop is a cycle by itself.
    """

    async def count() -> tuple[int, int]:
        async with serving() as place:
            await visit(place, 20)
            gc.collect()
            await visit(place, 10)
            few = gc.collect()
            await visit(place, 60)
            return few, gc.collect()

    gc.disable()
    try:
        return uvloop.run(count())
    finally:
        gc.enable()
