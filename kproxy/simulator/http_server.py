"""aiohttp's server, without its leak: a request that cannot be read leaves nothing behind.

aiohttp keeps the exception of such a request, its traceback, the frames in that and their buffers
of up to a megabyte in one cycle, until the garbage collector runs. Any client can send such
requests faster than it runs.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from kproxy.simulator import http_log


class _Connection(web.RequestHandler):
    """One connection; after a request that cannot be read it frees its buffers and ends."""

    __slots__ = ("_is_broken",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._is_broken = False
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Read on, unless a request could not be read: its connection is about to end."""
        if self._is_broken:
            return
        super().data_received(data)
        for message, _ in self._messages:
            error = getattr(message, "exc", None)
            if error is not None:
                self._is_broken = True
                error.__traceback__ = error.__context__ = error.__cause__ = None


class Server(web.Server):
    """Answers HTTP with `handler`; a body may have `largest_body` bytes.

    With `cancels` the handler of a request is cancelled when its client leaves.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        largest_body: int = 1024 * 1024,
        cancels: bool = False,
    ) -> None:
        self._largest_body = largest_body
        self._options: dict[str, Any] = {"access_log": None, "logger": http_log.LOGGER}
        super().__init__(handler, handler_cancellation=cancels, request_factory=self._request)

    def __call__(self) -> web.RequestHandler:
        """The protocol of a new connection."""
        return _Connection(self, loop=self._loop, **self._options)

    def _request(
        self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any
    ) -> web.BaseRequest:
        return web.BaseRequest(
            message,
            payload,
            protocol,
            writer,
            task,
            self._loop,
            client_max_size=self._largest_body,
        )
