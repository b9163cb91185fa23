"""The HTTP servers of the ops surface: bounded, so that nobody who talks to them slows a relay.

They share the event loop with the data path. So each takes few connections, of which a new one
ends the oldest; a connection ends after 10 to 30 s, whatever it is doing; and a request's head is
small (fault-catalogue S13). There is no verb that changes anything: only GET and HEAD.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from kproxy import errors
from kproxy.ops import places

MAX_CONNECTIONS = 12
"""For each server. With all of them full, the descriptors kept from clients still suffice."""
PATIENCE = 10.0
"""Seconds after which a connection is asked to end; the same again, and it is cut."""
RETRY = 5.0
"""Seconds between two tries to get an address that someone else has, as in kube-proxy."""

_SHUTDOWN = 1.0
_RESET = struct.pack("ii", 1, 0)
_SILENT = logging.getLogger(__name__)
_SILENT.disabled = True  # it would tell each bad request of a stranger, with a traceback

_log = structlog.get_logger(__name__)


class Listener:
    """Serves an application at a place. `name` is what for, for logs.

    `bind`, then `run`, then `close`. A place that nobody has asked for by name may be taken: that
    is told once, and `run` tries again until it is free.
    """

    def __init__(
        self, name: str, place: places.Place, make_app: Callable[[], web.Application]
    ) -> None:
        self._name = name
        self._place = place
        self._make_app = make_app
        self._bound: places.Bound | None = None
        self._is_told = False

    @property
    def address(self) -> str | None:
        """Where it listens, None while it does not."""
        return self._bound.address if self._bound else None

    def bind(self) -> None:
        """Listen; who connects is served by `run`. Raises KproxyError for a required place."""
        try:
            self._bound = self._place.bind()
        except errors.KproxyError as error:
            if self._place.is_required:
                raise
            if not self._is_told:
                _log.warning(f"no {self._name}, will retry: {error}", seconds=RETRY)
                self._is_told = True
        else:
            if self._is_told:
                _log.info("listening after all", name=self._name, address=self.address)

    async def run(self) -> None:
        """Serve until cancelled; the requests of that moment have a second to be answered."""
        while self._bound is None:
            await asyncio.sleep(RETRY)
            self.bind()
        await _serve(self._bound.socket, _prepared(self._make_app()))

    def close(self) -> None:
        """Stop listening, and leave nothing behind."""
        if self._bound is not None:
            self._bound.close()
            self._bound = None


class _Connection(web.RequestHandler):
    """One connection of a server; `peers` are all of them, by age."""

    __slots__ = ("_peers",)

    def __init__(self, peers: "dict[_Connection, None]", server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=PATIENCE / 2,
            max_line_size=4096,
            max_field_size=4096,
            max_headers=64,
            lingering_time=0,
            logger=_SILENT,
            access_log=None,  # type: ignore[arg-type]  # None means none; AppRunner passes it too
        )
        self._peers = peers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make room for this one at the cost of the oldest."""
        super().connection_made(transport)
        if len(self._peers) >= MAX_CONNECTIONS:
            next(iter(self._peers)).cut()
        self._peers[self] = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """It has ended, or was cut."""
        self._peers.pop(self, None)
        super().connection_lost(exc)

    def cut(self) -> None:
        """End it now, whatever is under way and however little the peer reads."""
        self._peers.pop(self, None)
        if self.transport is not None:
            # A reset: what the peer has not read is not kept for it in the kernel either.
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()


async def _serve(sock: socket.socket, app: web.Application) -> None:
    runner = web.AppRunner(app, shutdown_timeout=_SHUTDOWN)
    await runner.setup()
    server = runner.server
    assert server is not None
    loop = asyncio.get_running_loop()
    connections: dict[_Connection, None] = {}
    listen = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
    listening = await listen(lambda: _Connection(connections, server), sock=sock)
    try:
        await _end_the_old(connections)
    finally:
        listening.close()
        await runner.cleanup()


async def _end_the_old(connections: dict[_Connection, None]) -> None:
    """Look every `PATIENCE` seconds who is still there: asked to end the first time, then cut."""
    seen: set[_Connection] = set()
    asked: set[_Connection] = set()
    while True:
        await asyncio.sleep(PATIENCE)
        present = set(connections)
        for connection in present & asked:
            connection.cut()
        asked = (present & seen) - asked
        for connection in asked:
            connection.close()
        seen = present


def _prepared(app: web.Application) -> web.Application:
    """`app` with what all of them have in common."""
    app.middlewares.append(_contain)
    app.on_response_prepare.append(_dress)
    return app


@web.middleware
async def _contain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A bug in one answer is logged, and is the end of that answer alone."""
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except ConnectionError:
        raise  # the client is gone
    except Exception:
        _log.exception("a bug kept a request from being answered", path=request.path)
        raise web.HTTPInternalServerError from None


async def _dress(_request: web.Request, response: web.StreamResponse) -> None:
    """The headers of kube-proxy's answers."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.pop("Server", None)
