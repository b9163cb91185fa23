"""Questions and answers over TCP (RFC 7766): pipelined, bounded, and cut off when silent."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

from kproxy import turns
from kproxy.dns import responder, udp

PATIENCE = 10.0
"""Seconds in which a client must ask something, and read what it was answered."""
MOST_PENDING = 32
"""Questions of one connection that others are asked at once; more wait to be read."""
_AT_ONCE = 8
"""Questions of one connection that are answered before another connection has its turn."""
_UNREAD = 64 * 1024
"""Bytes of answers that wait for a client before no more of its questions are read."""
_UNANSWERED = 64 * 1024
"""Bytes of questions that wait for their turn before no more of them are read."""

_length = struct.Struct("!H")


def _now() -> float:
    return asyncio.get_running_loop().time()


class TcpServer:
    """Answers on a listening socket, from `start` to `close`.

    Of more than `most` connections the one that has been silent for longest is ended.
    `others_wait` says whether something else has work for this thread.
    """

    def __init__(
        self,
        answers: responder.Responder,
        forward: udp.Forwarding,
        most: int,
        others_wait: Callable[[], bool] = lambda: False,
    ) -> None:
        self.answers = answers
        self._others_wait = others_wait
        self._most = most
        self.forward = forward
        self.connections: dict[Connection, float] = {}
        """Open ones, with the moment of the last question; the longest silent first."""
        self._waiting: dict[Connection, None] = {}
        """Those with something to answer, the next one first."""
        self._turn: asyncio.Handle | None = None
        self._server: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self, listening: socket.socket) -> None:
        """Answer on the running event loop. The listening socket is this server's from now on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), sock=listening)
        self._sweep = loop.call_later(1.0, self._end_silent)

    def close(self) -> None:
        """Stop, and end all connections. A second call does nothing."""
        if self._sweep is not None:
            self._sweep.cancel()
        if self._turn is not None:
            self._turn.cancel()
        if self._server is not None:
            self._server.close()
        for each in tuple(self.connections):
            each.abort()

    def admit(self, new: "Connection") -> None:
        """Take a connection, perhaps in place of another one."""
        if len(self.connections) >= self._most:
            next(iter(self.connections)).abort()
        self.connections[new] = _now()

    def touch(self, active: "Connection") -> None:
        """A connection has asked something."""
        if self.connections.pop(active, None) is not None:
            self.connections[active] = _now()

    def queue(self, ready: "Connection") -> None:
        """Have a connection answer some of its questions, when it is its turn."""
        self._waiting[ready] = None
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._take_turns)

    def forget(self, ended: "Connection") -> None:
        """A connection has ended. More than one call does nothing."""
        self.connections.pop(ended, None)
        self._waiting.pop(ended, None)

    def _take_turns(self) -> None:
        """Answer for one slice of time, however many clients ask: this thread also relays.

        While relays wait, one client gets a few answers.
        """
        self._turn = None
        time_left = turns.Slice()
        while self._waiting and not time_left.is_over:
            each = next(iter(self._waiting))
            del self._waiting[each]
            if each.answer():
                self._waiting[each] = None
            if self._others_wait():
                break
        if self._waiting:
            self._turn = asyncio.get_running_loop().call_soon(self._take_turns)

    def _end_silent(self) -> None:
        oldest = _now() - PATIENCE
        for each, asked in tuple(self.connections.items()):
            if asked > oldest:
                break
            each.abort()
        self._sweep = asyncio.get_running_loop().call_later(1.0, self._end_silent)


class Connection(asyncio.Protocol):
    """One client: takes whole messages off what has come, a few at a time."""

    def __init__(self, server: TcpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._pending = 0
        self._is_full = False
        self._is_at_end = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_UNREAD)
        self._server.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the protocol's
        """Forget everything. Answers of others that are still to come are lost."""
        self._server.forget(self)
        self._transport = None
        self._buffer.clear()

    def abort(self) -> None:
        """End at once."""
        self._server.forget(self)
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """More of the client's messages."""
        self._buffer += data
        if self._transport is not None and len(self._buffer) > _UNANSWERED:
            self._transport.pause_reading()
        self._server.queue(self)

    def eof_received(self) -> bool:
        """The client asks nothing more; it still gets its answers."""
        self._is_at_end = True
        self._server.queue(self)
        return True

    def pause_writing(self) -> None:
        """The client does not read: nor are its questions read."""
        self._is_full = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._is_full = False
        self._server.queue(self)

    def answer(self) -> bool:
        """Answer a few whole messages, if there is room. True if there may be more of them."""
        is_more = self._answer_some()
        if self._transport is None:
            return False
        if is_more or self._is_stopped:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
            self._end_if_done()
        return is_more

    def _answer_some(self) -> bool:
        """Answer until nothing is left, there is no room, or it is another connection's turn."""
        for _ in range(_AT_ONCE):
            if self._transport is None or self._is_stopped:
                return False
            message = self._next()
            if message is None:
                return False
            self._server.touch(self)
            if not self._handle(message):
                self.abort()
                return False
        return True

    @property
    def _is_stopped(self) -> bool:
        return self._is_full or self._pending >= MOST_PENDING

    def _next(self) -> bytes | None:
        """The next whole message."""
        if len(self._buffer) < _length.size:
            return None
        end = _length.size + _length.unpack_from(self._buffer)[0]
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[_length.size : end])
        del self._buffer[:end]
        return message

    def _handle(self, message: bytes) -> bool:
        """Answer a message, or have others asked. False for what cannot be answered."""
        outcome = self._server.answers.message(message)
        if isinstance(outcome, bytes):
            self._write(outcome)
        elif outcome is not None:
            self._pending += 1
            self._server.forward(outcome, self._on_forwarded)
        return outcome is not None

    def _on_forwarded(self, made: bytes) -> None:
        self._pending -= 1
        if self._transport is None:
            return
        self._write(made)
        self._server.queue(self)

    def _write(self, made: bytes) -> None:
        if self._transport is not None:
            self._transport.write(_length.pack(len(made)) + made)

    def _end_if_done(self) -> None:
        """Close once a client that asks nothing more has its answers."""
        if self._is_at_end and not self._pending and self._transport is not None:
            self._transport.close()
