"""Read a source once: for commands that look at objects and end."""

import asyncio

from kproxy import errors
from kproxy.sources import source, store

PATIENCE = 15.0
"""Seconds within which everything must have been read once."""


async def read(followed: source.Source, patience: float = PATIENCE) -> store.Store:
    """The Store of a source as soon as everything has been read once.

    The source is followed no further. Raises KproxyError with what is wrong with the source, when
    it does not get that far within `patience` seconds.
    """
    has_synced = asyncio.Event()
    heard = followed.store.subscribe(lambda _: has_synced.set() if followed.has_synced else None)
    try:
        async with asyncio.timeout(patience), asyncio.TaskGroup() as group:
            running = group.create_task(followed.run(), name="source")
            await has_synced.wait()
            running.cancel()
    except TimeoutError:
        problems = [str(each) for each in followed.problems()]
        why = problems[0] if problems else "it gives no answer"
        raise errors.KproxyError(f"{followed.describe()} could not be read: {why}") from None
    finally:
        heard.cancel()
    return followed.store
