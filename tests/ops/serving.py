"""A whole proxy on the test's own event loop."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from kproxy import config, server

SECONDS = 10.0
"""Bound of every wait."""


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as `condition` holds. Raises TimeoutError after `SECONDS`."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110  # what is waited for is a fact, not an event
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def serving(
    manifest: Path, *, ready_file: Path, node: str = "node-a", grace_period: float = 0.0
) -> AsyncIterator[server.Server]:
    """A Server that is ready; stopped at the end if it still runs."""
    cfg = config.Config(
        manifests=(manifest,),
        node=node,
        allow_loopback_endpoints=True,
        ready_file=ready_file,
        grace_period=grace_period,
    )
    served = server.Server(cfg)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(served.run())
            await until(ready_file.exists)
            try:
                yield served
            finally:
                served.stop()
    finally:
        gc.unfreeze()
