"""The HTTP servers of the ops surface: bounded, so that no client slows a relay.

They share the event loop with the data path. So each takes few connections, of which a new one
ends the oldest; a connection ends after 10 to 30 s, whatever it is doing; a request's head has at
most 4 KiB, and of a body nothing is kept (docs/faults.md S13). There is no verb that changes
anything: only GET and HEAD.

Not aiohttp's server: it keeps each refused request in a cycle of exception, traceback and frames,
with up to a megabyte of buffers, until the garbage collector comes by: 1,500 requests with large
headers took 1.2 GB. Here a connection has one buffer of 4 KiB, and everything it refers to is freed
when it ends, without the collector. Besides, aiohttp takes 0.2 s of CPU to load.
"""

import asyncio
import contextlib
import socket
import struct
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias, cast

import structlog

from kproxy import errors
from kproxy.ops.serving import answers, heads, places

MAX_CONNECTIONS = 12
"""Connections of each server: the descriptors that are kept from clients suffice."""
PATIENCE = 10.0
"""Seconds after which a connection is asked to end; after as many more it is cut."""
RETRY = 5.0
"""Seconds between two tries to bind an address that another process has, as in kube-proxy."""
STUCK = 30.0
"""An endless answer ends when its client has not read for this many seconds."""

_SHUTDOWN = 1.0
_RESET = struct.pack("ii", 1, 0)
_RECEIVE_BUFFER = 16 * 1024
"""Bytes that the kernel keeps for a connection: four heads."""
_SEND_BUFFER = 64 * 1024
"""Bytes of an answer that wait for a slow client before no more are made."""
_MOST_PASSED_OVER = 256 * 1024
"""Bytes of a refused request that are read and thrown away, so that its client meets the answer
before a reset."""
_GZIP = 16 + zlib.MAX_WBITS

Handler: TypeAlias = Callable[[heads.Request], Awaitable[answers.Answer]]

_log = structlog.get_logger(__name__)

_scratch = bytearray(16 * 1024)
"""The buffer for bytes that are thrown away, shared by all connections."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a server serves: a handler for each path.

    `default` is for all other paths; without one they are answered with 404. `admits` decides about
    a new connection; one that it rejects is answered with 403.
    """

    routes: Mapping[str, Handler]
    admits: Callable[[socket.socket], bool] = lambda _sock: True
    default: Handler | None = None


class Listener:
    """Serves a site at a place. `name` is its name in the log.

    `bind`, then `run`, then `close`. If a default place is taken, one warning says so, and `run`
    tries again until it is free.
    """

    def __init__(self, name: str, place: places.Place, make_site: Callable[[], Site]) -> None:
        self._name = name
        self._place = place
        self._make_site = make_site
        self._bound: places.Bound | None = None
        self._has_warned = False

    @property
    def address(self) -> str | None:
        """Where it listens, None while it does not."""
        return self._bound.address if self._bound else None

    def bind(self) -> None:
        """Listen; `run` serves the connections. Raises KproxyError if a required place is taken."""
        try:
            self._bound = self._place.bind()
        except errors.KproxyError as error:
            if self._place.is_required:
                raise
            if not self._has_warned:
                _log.warning(
                    f"{self._name} unavailable, retrying every {RETRY:.0f} s: {error}",
                    server=self._name,
                )
                self._has_warned = True
        else:
            if self._has_warned:
                _log.info("listening now", server=self._name, address=self.address)

    async def run(self) -> None:
        """Serve until cancelled. Requests that are under way then have a second to be answered."""
        while self._bound is None:
            await asyncio.sleep(RETRY)
            self.bind()
        async with asyncio.TaskGroup() as group:
            room = Room()
            async with serving(self._bound.socket, self._make_site(), group, room):
                await room.keep_tidy()

    def close(self) -> None:
        """Stop listening, and leave nothing behind."""
        if self._bound is not None:
            self._bound.close()
            self._bound = None


class Room:
    """The connections that one server has, or several share: at most `most`, by age."""

    def __init__(self, most: int = MAX_CONNECTIONS) -> None:
        self._most = most
        self._present: dict[_Connection, None] = {}

    def add(self, connection: "_Connection") -> None:
        """Make room for a new one: end the oldest one whose answer is not endless."""
        if len(self._present) >= self._most:
            oldest = next((each for each in self._present if not each.is_endless), None)
            (oldest or next(iter(self._present))).cut()
        self._present[connection] = None

    def remove(self, connection: "_Connection") -> None:
        """`connection` has ended."""
        self._present.pop(connection, None)

    def of(self, site: Site) -> "list[_Connection]":
        """The connections to `site` that are open."""
        return [each for each in self._present if each.site is site]

    async def keep_tidy(self) -> None:
        """Every `PATIENCE` seconds, until cancelled: ask connections that were there last time to
        end, then cut them."""
        seen: set[_Connection] = set()
        asked: set[_Connection] = set()
        while True:
            await asyncio.sleep(PATIENCE)
            present = {each for each in self._present if not each.is_endless}
            for connection in present & asked:
                connection.cut()
            asked = (present & seen) - asked
            for connection in asked:
                connection.ask_to_end()
            seen = present


@contextlib.asynccontextmanager
async def serving(
    sock: socket.socket, site: Site, group: asyncio.TaskGroup, room: Room
) -> AsyncGenerator[asyncio.Server, None]:
    """Serve a site at a listening socket. Answers are tasks of `group`.

    Closing the server that this gives closes the socket at once. At the end, requests that are
    under way have a second to be answered. `room.keep_tidy` must run beside it.
    """
    loop = asyncio.get_running_loop()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    listen = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
    listening = await listen(lambda: _Connection(room, site, group), sock=sock, start_serving=False)
    try:
        await listening.start_serving()
        yield listening
    finally:
        listening.close()
        for each in room.of(site):
            each.ask_to_end()
        tasks = {
            each.task for each in room.of(site) if each.task is not None and not each.is_endless
        }
        if tasks:
            await asyncio.wait(tasks, timeout=_SHUTDOWN)
        for each in room.of(site):
            each.cut()


class _Connection(asyncio.BufferedProtocol):
    """One connection of a server, in a room of its own or one that it shares.

    It reads a head, has the request answered by a task, and reads on when that is done. After a
    refusal it ends: the answer is followed by FIN, and what still comes is thrown away.
    """

    __slots__ = (
        "_buffer",
        "_can_write",
        "_filled",
        "_group",
        "_is_asked_to_end",
        "_is_over",
        "_passed_over",
        "_room",
        "_transport",
        "is_endless",
        "site",
        "task",
    )

    def __init__(self, room: Room, site: Site, group: asyncio.TaskGroup) -> None:
        self._room = room
        self.site = site
        self._group = group
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(heads.MAX_HEAD)
        self._filled = 0
        self._passed_over = 0
        self._is_over = False
        self._is_asked_to_end = False
        self._can_write: asyncio.Future[None] | None = None
        self.is_endless = False
        """Whether an answer is under way that goes on until the client leaves."""
        self.task: asyncio.Task[None] | None = None
        """The task that answers the request that has been read."""

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place in the room, which may end an older connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_SEND_BUFFER)
        self._room.add(self)
        if not self.site.admits(transport.get_extra_info("socket")):
            self._refuse(HTTPStatus.FORBIDDEN, "this proxy belongs to another user")

    def get_buffer(self, _sizehint: int) -> memoryview:
        if self._is_over or self.is_endless:
            return memoryview(_scratch)
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_over or self.is_endless:
            self._passed_over += nbytes
            if self._passed_over > _MOST_PASSED_OVER:
                self.cut()
            return
        self._filled += nbytes
        self._read_on()

    def eof_received(self) -> bool:
        """The client sends no more, and may still wait for an answer: keep the other direction.

        A client that waits for the end of an endless answer has left.
        """
        self._is_asked_to_end = True
        return self.task is not None and not self.is_endless

    def pause_writing(self) -> None:
        """The client reads more slowly than the answer is made."""
        if self._can_write is None:
            self._can_write = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        waiter, self._can_write = self._can_write, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def connection_lost(self, _exc: BaseException | None) -> None:
        """The connection has ended: release its task, buffers and place."""
        self._forget()
        self._transport = None
        self.resume_writing()
        if self.task is not None:
            self.task.cancel()

    # What the server calls.

    def ask_to_end(self) -> None:
        """End after the answer that is under way, or now if there is none."""
        self._is_asked_to_end = True
        if self.task is None:
            self.end()

    def end(self) -> None:
        """End once what is written has been sent; that may take until it is cut."""
        if self.task is not None:
            self.task.cancel()
        if self._transport is not None:
            self._transport.close()

    def cut(self) -> None:
        """End now, whatever is under way and however little the client reads."""
        self._forget()
        if self._transport is not None:
            # A reset: what the client has not read is not kept for it in the kernel either.
            sock = self._transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()

    def _forget(self) -> None:
        self._room.remove(self)

    # Reading.

    def _read_on(self) -> None:
        """Start to answer the next request, if its whole head has been received."""
        if self._transport is None or self._transport.is_closing():
            return
        held = bytes(memoryview(self._buffer)[: self._filled])
        head, end, rest = held.partition(heads.END)
        if not end:
            if not heads.can_begin(held):
                self._refuse(HTTPStatus.BAD_REQUEST)
            elif self._filled == len(self._buffer):
                is_url = b"\r\n" not in held
                self._refuse(
                    HTTPStatus.REQUEST_URI_TOO_LONG
                    if is_url
                    else HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                )
            return
        self._buffer[: len(rest)] = rest
        self._filled = len(rest)
        try:
            request = heads.read_request(head)
        except heads.RefusedError as error:
            self._refuse(error.status)
            return
        self._transport.pause_reading()
        self.task = self._group.create_task(self._answer(request))

    def _refuse(self, status: int, sentence: str = "") -> None:
        """Answer with `status`, and end."""
        text = sentence or HTTPStatus(status).phrase.lower()
        headers = {"Content-Type": answers.TEXT, "Content-Length": str(len(text))}
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = "GET, HEAD"
        self._write(heads.write_answer(status, {**headers, "Connection": "close"}))
        self._write(text.encode())
        self._finish()

    def _finish(self) -> None:
        """Answer no more: send FIN after what is written, discard what still comes."""
        self._is_over = True
        if self._transport is None or self._transport.is_closing():
            return
        if self._is_asked_to_end:
            self._transport.close()
        elif self._transport.can_write_eof():
            self._transport.write_eof()

    # Answering.

    async def _answer(self, request: heads.Request) -> None:
        """Answer a request, then read the next one or end. A failure ends only this connection."""
        try:
            await self._send(request, await self._found(request))
        except ConnectionError:
            self.cut()  # the client is gone, or stuck
        except Exception:
            _log.exception("internal error: an answer was cut short", path=request.path)
            self.cut()
        finally:
            self.task = None
            self.is_endless = False
        if self._transport is None or self._transport.is_closing():
            return
        if not request.keeps_alive or self._is_asked_to_end:
            self._finish()
        else:
            self._read_on()
        if self.task is None:
            self._transport.resume_reading()

    async def _found(self, request: heads.Request) -> answers.Answer:
        handler = self.site.routes.get(request.path, self.site.default)
        if handler is None:
            return answers.sentence(HTTPStatus.NOT_FOUND, "404: not found")
        try:
            return await handler(request)
        except Exception:
            _log.exception("internal error: a request was answered with 500", path=request.path)
            return answers.sentence(HTTPStatus.INTERNAL_SERVER_ERROR, "500: internal error")

    async def _send(self, request: heads.Request, answer: answers.Answer) -> None:
        """Raises ConnectionError when the client is gone."""
        headers = {**answer.headers, "Content-Type": answer.content_type}
        if not request.is_http_10 and (not request.keeps_alive or self._is_asked_to_end):
            headers["Connection"] = "close"
        if isinstance(answer.body, bytes):
            headers["Content-Length"] = str(len(answer.body))
            self._write(heads.write_answer(answer.status, headers))
            if request.wants_body:
                self._write(answer.body)
                await self._drained()
            return
        if not request.is_http_10:
            headers["Transfer-Encoding"] = "chunked"
        body = answer.body
        if answer.may_be_compressed and request.accepts_gzip:
            headers["Content-Encoding"] = "gzip"
            body = _compressed(body)
        self._write(heads.write_answer(answer.status, headers))
        async with contextlib.aclosing(body):
            if request.wants_body:
                if answer.is_endless and self._transport is not None:
                    self.is_endless = True
                    self._transport.resume_reading()  # to see the client leave
                await self._send_chunks(body, is_chunked=not request.is_http_10)

    async def _send_chunks(self, body: answers.Body, *, is_chunked: bool) -> None:
        async for chunk in body:
            if self._transport is None or self._transport.is_closing():
                raise ConnectionResetError
            if chunk:
                self._write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if is_chunked else chunk)
            await self._drained()
        if is_chunked:
            self._write(b"0\r\n\r\n")

    async def _drained(self) -> None:
        """Return when the client has read enough. Raises ConnectionResetError if it never does."""
        if self._can_write is None:
            return
        # Not asyncio.timeout: its exceptions keep frames alive in a cycle. How long an ordinary
        # answer takes is bounded by `_end_the_old`.
        await asyncio.wait((self._can_write,), timeout=STUCK if self.is_endless else None)
        if self._can_write is not None or self._transport is None:
            raise ConnectionResetError

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


async def _compressed(body: answers.Body) -> AsyncGenerator[bytes, None]:
    packer = zlib.compressobj(wbits=_GZIP)
    async with contextlib.aclosing(body):
        async for chunk in body:
            yield packer.compress(chunk)
    yield packer.flush()
