"""Open watches: when each sends, what ends it, and its faults."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from aiohttp import web

from kproxy.simulator.api import server_faults
from kproxy.simulator.api.formats import encoding
from kproxy.simulator.api.reading import watch_cache, watches
from kproxy.simulator.api.reading.watches import Change
from kproxy.simulator.api.request_info import RequestInfo
from kproxy.simulator.store import api_versions, statuses, storage

_BATCH = 200
"""How many events are encoded before everything else on the event loop has its turn."""

_WITHOUT_CODE = {
    "kind": "Status",
    "apiVersion": "v1",
    "metadata": {},
    "status": "Failure",
    "message": "an error was ordered that has no code",
}


class WatchStreams:
    """All open watches of a server.

    `bookmark_interval` is in seconds; without `bookmarks_when_quiet` no bookmark comes while the
    version is that which the watch began at. `draw(a, b)` is a random number for the time after
    which a watch ends whose client has set none.
    """

    def __init__(
        self,
        cache: watch_cache.WatchCache,
        switches: server_faults.Faults,
        *,
        bookmark_interval: float,
        bookmarks_when_quiet: bool = True,
        draw: Callable[[float, float], float],
    ) -> None:
        self._cache = cache
        self._objects = objects = cache.objects
        self._bookmarks_when_quiet = bookmarks_when_quiet
        self._faults = switches
        self._bookmark_interval = bookmark_interval
        self._draw = draw
        self._signals: dict[asyncio.Event, str] = {}
        self._closed = asyncio.Event()
        objects.subscribe(lambda event: self._wake(event.resource.plural))
        switches.subscribe(self._wake)

    def open(self) -> None:
        """Let watches begin."""
        self._closed.clear()

    def close(self) -> None:
        """Let every watch end, as on the server's shutdown."""
        self._closed.set()
        self._wake()

    async def closed(self) -> None:
        """Wait for the server's shutdown."""
        await self._closed.wait()

    async def woken(self) -> None:
        """Wait until the faults are cleared, or for the server's shutdown."""
        waits = [asyncio.ensure_future(each) for each in (self.closed(), self._faults.cleared())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    async def serve(
        self,
        request: web.BaseRequest,
        info: RequestInfo,
        options: watches.Options,
        render: Callable[[Change], bytes],
    ) -> web.StreamResponse:
        """Answer a watch, until its time is over, its client leaves or a fault ends it."""
        if self._faults.take(server_faults.WATCH_STARTS, info.resource.plural, "watch"):
            raise statuses.too_old(0, self._objects.resource_version)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        stream = _Stream(request, response, info, options, render)
        with self._signal(info.resource.plural) as signal:
            try:
                await self._follow(stream, signal)
            except statuses.StatusError as error:
                await stream.send_error(error.body())
        return response

    async def _follow(self, stream: "_Stream", signal: asyncio.Event) -> None:
        options, cursor = stream.options, self._cursor(stream)
        resource = cursor.resource
        clock = asyncio.get_running_loop().time
        deadline = clock() + (options.timeout or self._draw(1800.0, 3600.0))
        bookmark_at = clock() + self._bookmark_interval
        current = self._cache.version(resource)
        if options.initial_events and cursor.version > current:
            # Other watches wait for the future; a list cannot (cacher.go, errors.go).
            raise statuses.too_large_resource_version(cursor.version, current)
        if options.with_state:
            await stream.send(list(cursor.initial()))
            if options.initial_events and options.bookmarks:
                await stream.bookmark(cursor.version, ends_initial_events=True)
        elif options.resource_version in ("", "0"):
            cursor.version = current
        began_at = cursor.version
        while True:
            signal.clear()
            if await self._is_broken(stream):
                return
            if not await self._send(stream, cursor):
                return
            if self._closed.is_set() or clock() >= deadline:
                break
            if clock() >= bookmark_at:
                bookmark_at = clock() + self._bookmark_interval
                await self._bookmark(stream, cursor, began_at)
            await _wait(signal, min(deadline, bookmark_at))
        await self._bookmark(stream, cursor, began_at)

    async def _bookmark(self, stream: "_Stream", cursor: watches.Cursor, began_at: int) -> None:
        """Send the version that the watch has reached, if this server sends bookmarks now."""
        plural = stream.info.resource.plural
        if self._faults.is_on(server_faults.Kind.NO_BOOKMARKS, plural, "watch"):
            return
        if self._bookmarks_when_quiet or cursor.version > began_at:
            await stream.bookmark(cursor.version)

    def _cursor(self, stream: "_Stream") -> watches.Cursor:
        resource, options = api_versions.stored_as(stream.info.resource), stream.options
        version = int(options.resource_version or 0)
        namespace = stream.info.namespace or None
        return watches.Cursor(self._cache, resource, namespace, options.selector, version)

    async def _is_broken(self, stream: "_Stream") -> bool:
        """Whether a fault has ended the watch."""
        fault = self._faults.take(server_faults.STREAMS, stream.info.resource.plural, "watch")
        if fault is None:
            return False
        if fault.kind == server_faults.Kind.GONE:
            raise statuses.too_old(0, self._objects.resource_version)
        if fault.kind == server_faults.Kind.ABRUPT_CLOSE:
            stream.abort()
        if fault.kind == server_faults.Kind.SILENT_DEATH:
            await self.woken()
            return False
        if fault.kind == server_faults.Kind.SILENT_WATCH:
            await self.closed()
        if fault.kind == server_faults.Kind.ERROR_EVENT:
            await stream.send_error(_WITHOUT_CODE)
        return True

    async def _send(self, stream: "_Stream", cursor: watches.Cursor) -> bool:
        """Send what has happened. Returns whether the watch continues."""
        changes = list(cursor.next())
        if not changes:
            return True
        fault = self._faults.take(server_faults.EVENTS, stream.info.resource.plural, "watch")
        if fault is not None:
            if fault.kind == server_faults.Kind.HALF_LINE:
                await stream.send_half(changes[0])
                return False
            if fault.kind == server_faults.Kind.DUPLICATE_EVENTS:
                changes = [change for change in changes for _ in range(2)]
            else:
                await asyncio.sleep(fault.seconds)
                changes = reordered([*changes, *cursor.next()])
        await stream.send(changes)
        return True

    @contextlib.contextmanager
    def _signal(self, plural: str) -> Iterator[asyncio.Event]:
        signal = asyncio.Event()
        self._signals[signal] = plural
        try:
            yield signal
        finally:
            del self._signals[signal]

    def _wake(self, plural: str = "") -> None:
        for signal, watched in self._signals.items():
            if plural in ("", watched):
                signal.set()


class _Stream:
    """The answer to one watch."""

    def __init__(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        info: RequestInfo,
        options: watches.Options,
        render: Callable[[Change], bytes],
    ) -> None:
        self._request = request
        self._response = response
        self.info = info
        self.options = options
        self._render = render

    async def send(self, changes: Sequence[Change]) -> None:
        for start in range(0, len(changes), _BATCH):
            await self._response.write(
                b"".join(self._line(change) for change in changes[start : start + _BATCH])
            )
            await asyncio.sleep(0)

    async def send_half(self, change: Change) -> None:
        whole = self._line(change)
        await self._response.write(whole[: len(whole) // 2])

    async def send_error(self, body: Mapping[str, Any]) -> None:
        await self._response.write(line("ERROR", encoding.encode(body)))

    async def bookmark(self, version: int, *, ends_initial_events: bool = False) -> None:
        if self.options.bookmarks:
            mark = watches.bookmark(
                self.info.resource, version, ends_initial_events=ends_initial_events
            )
            await self._response.write(line(mark.type, encoding.encode(mark.object)))

    def abort(self) -> None:
        """Reset the connection, in the middle of the body."""
        if self._request.transport is not None:
            self._request.transport.abort()

    def _line(self, change: Change) -> bytes:
        return line(change.type, self._render(change))


def line(kind: str, encoded: bytes) -> bytes:
    """One event as it is on the wire."""
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), encoded)


def reordered(changes: Sequence[Change]) -> list[Change]:
    """The changes with those of different objects in the reverse order; each object's own stay
    in theirs."""
    by_object: dict[str, list[Change]] = {}
    for change in changes:
        by_object.setdefault(storage.key_of(change.object), []).append(change)
    return [change for group in reversed(by_object.values()) for change in group]


async def _wait(signal: asyncio.Event, until: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(until):
            await signal.wait()
