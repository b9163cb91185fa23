"""How serving begins and ends: the announcement that the proxy is ready, and its shutdown."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence

import structlog

from kproxy import component, errors, turns
from kproxy.ops import health
from kproxy.ops.views import observed, ready_file, status
from kproxy.plane import plane

_log = structlog.get_logger(__name__)


class Shutdown:
    """Whether the proxy is to end, how, and because of which failure.

    `failure` is None after an orderly end.
    """

    def __init__(self, syncs: health.SyncRecord) -> None:
        self._syncs = syncs
        self._requested = asyncio.Event()
        self._immediate = asyncio.Event()
        self.failure: Exception | None = None

    def stop(self) -> None:
        """First call: stop accepting, let connections finish. Second call: end at once."""
        if self._requested.is_set():
            self._immediate.set()
        self._requested.set()
        self._syncs.stop()

    def kill(self) -> None:
        """End at once: connections are reset."""
        self._immediate.set()
        self.stop()

    def fail(self, failure: Exception) -> None:
        """End in good order, because of `failure`. The first failure counts."""
        self.failure = self.failure or failure
        self.stop()

    async def wait(self) -> None:
        """Return once the proxy is to end."""
        await self._requested.wait()

    async def fail_with(self, work: Awaitable[None]) -> None:
        """Await `work`. A KproxyError in it ends the proxy in good order."""
        try:
            await work
        except* errors.KproxyError as group:
            self.fail(errors.first_expected(group))

    async def drain(
        self, served: plane.DataPlane, components: Sequence[component.Component], grace: float
    ) -> None:
        """Let connections finish for `grace` seconds, or until `kill`, and reset the others.

        The components drain first: what they serve goes through the data plane.

        Raises KproxyError when the data plane has ended.
        """
        await served.refresh(plane.Part.TOTALS, turns.Turns())
        connections = served.totals().connections
        _log.info("stopping", open_connections=connections, grace_seconds=grace)
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(_drain_in_order(served, components, grace))
            killed = group.create_task(self._immediate.wait())
            await asyncio.wait({draining, killed}, return_when=asyncio.FIRST_COMPLETED)
            reset = draining.result() if draining.done() else await served.abort()
            draining.cancel()
            killed.cancel()
        _log.info("stopped", connections_reset=reset)


async def _drain_in_order(
    served: plane.DataPlane, components: Sequence[component.Component], grace: float
) -> int:
    """Drain the components, then the data plane; returns how many connections were reset."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + grace
    if components:
        await component.drain(components, grace)
    return await served.drain(max(0.0, deadline - loop.time()))


class Announcement:
    """Announces that the first sync is done: in the log, and in the ready file if there is one.

    Owns the ready file.
    """

    def __init__(
        self,
        seen: observed.Observed,
        is_served: Callable[[], Awaitable[None]],
        addresses: Callable[[], Mapping[str, str | None]],
        file: ready_file.ReadyFile | None,
    ) -> None:
        """`is_served` returns when everything that the first sync opened is open, or has failed.

        `addresses` are those of the ops servers and components, None for one that is not there.
        """
        self._seen = seen
        self._is_served = is_served
        self._addresses = addresses
        self._file = file
        self.is_made = asyncio.Event()
        """Set when everything is served and announced."""

    def remove_stale(self) -> None:
        """Remove the ready file that an earlier proxy left. Raises ConfigError."""
        if self._file is not None:
            self._file.remove_stale()

    async def run(self) -> None:
        """Wait for the first sync, then announce.

        Raises KproxyError when the ready file cannot be written: a program that waits for the file
        would wait for ever.
        """
        await self._is_served()
        shared = turns.Turns()
        await self._seen.plane.refresh(plane.Part.PORTS, shared)
        addresses = self._addresses()
        await shared.result(self._write(addresses))
        _log.info(
            "ready",
            source=self._seen.source.describe(),
            listening=self._seen.proxier.listening,
            max_connections=self._seen.plane.totals().max_connections,
            **{name: address for name, address in addresses.items() if address},
        )
        self.is_made.set()

    def close(self) -> None:
        """Remove the ready file."""
        if self._file is not None:
            self._file.remove()

    def _write(self, addresses: Mapping[str, str | None]) -> Generator[None, None, None]:
        if self._file is not None:
            head = {"pid": os.getpid(), **addresses}
            plans = yield from status.in_order(status.select(self._seen))
            views = status.service_views(self._seen, plans)
            yield from self._file.write(ready_file.document(head, "services", views))
