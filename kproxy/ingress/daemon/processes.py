"""What /proc says of nginx's workers."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

PATIENCE = 2.0
"""How long workers may take to stop accepting once the next ones answer. nginx asks them after
0.1 s."""

MOST_RETIRING = 64
"""Workers of earlier configurations, of some 9 MB each, that may serve on for clients which keep
their connections; or those of `MOST_GENERATIONS`, where each configuration has many workers."""
MOST_GENERATIONS = 4

_PAUSE = 0.01
_SHUTTING_DOWN = b"shutting down"


def children(pid: int) -> list[int]:
    """The children of a process of one thread; none where the kernel does not list them."""
    with contextlib.suppress(OSError):
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return []


async def have_stopped_accepting(workers: Iterable[int]) -> None:
    """Return once each of these workers has ended or says in its title that it is shutting down.

    Until then clients may meet the configuration before. Returns after `PATIENCE` in any case.
    """
    left = list(workers)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while left := [each for each in left if _accepts(each)]:  # noqa: ASYNC110  # in /proc
                await asyncio.sleep(_PAUSE)


def end_oldest(master: int) -> int:
    """End workers of earlier configurations that are too many; returns how many. Their connections
    are closed.

    One client with open connections would keep a worker alive for each change that Ingresses have
    within `worker_shutdown_timeout`. The kernel lists children in the order of their start.
    """
    workers = children(master)
    retiring = [each for each in workers if not _accepts(each)]
    most = max(MOST_RETIRING, MOST_GENERATIONS * (len(workers) - len(retiring)))
    surplus = retiring[: max(len(retiring) - most, 0)]
    for each in surplus:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGTERM)
    return len(surplus)


def _accepts(worker: int) -> bool:
    try:
        title = Path(f"/proc/{worker}/cmdline").read_bytes()
    except OSError:
        return False
    return bool(title) and _SHUTTING_DOWN not in title
