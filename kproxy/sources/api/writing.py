"""What those that write to an API server have in common: when they try again, and what they say."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol

from kproxy.sources.api import client
from kproxy.sources.api.decisions import progress

FIRST_WAIT = 1.0
LONGEST_WAIT = 60.0
"""Seconds until a write that failed is tried again. The wait doubles with each failure."""

MERGE_PATCH = "application/merge-patch+json"
"""The media type of a JSON merge patch (RFC 7396)."""


class Api(Protocol):
    """What a writer needs of an API server's client. `client.Client` satisfies it."""

    async def write(self, path: str, written: client.Write, /) -> None:
        """Write something. Raises RequestError."""


async def keep_trying(
    due: asyncio.Event, attempt: Callable[[], Awaitable[bool]], pause: float = 0.0
) -> None:
    """Call `attempt` whenever `due` is set, and again while it returns False, until cancelled.

    `due` is cleared `pause` seconds after it was set, before the attempt: what becomes due
    meanwhile is part of it, and what becomes due later is not lost.
    """
    wait = FIRST_WAIT
    while True:
        await due.wait()
        if pause:
            await asyncio.sleep(pause)
        due.clear()
        if await attempt():
            wait = FIRST_WAIT
        else:
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
            due.set()


def reason(error: client.RequestError, command: str) -> str:
    """Why a write failed, in a clause.

    If a right is missing, it has the kubectl command by which an administrator grants it.
    """
    if error.outcome is not progress.Outcome.FORBIDDEN:
        return error.text
    return f"{error.text}; an administrator can grant it by: {command}"


def timestamp(moment: float) -> str:
    """A moment of the wall clock as API objects have it, in whole seconds (RFC 3339)."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
