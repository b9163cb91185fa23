"""One end of a connection, played by the suite: raw non-blocking sockets under asyncio.

An actor obeys its commands exactly and reports what it saw: bytes, a digest, how it ended.
"""

import asyncio
import collections.abc
import contextlib
import enum
import errno
import fcntl
import hashlib
import random
import socket
import struct
import termios
from typing import Final

from tests.relay import stream

PIECE: Final = 64 * 1024
"""Bytes handed to one send and asked of one recv."""

_SETTLED: Final = 0.2
"""Seconds without a byte moving after which a sender counts as blocked."""

_POLL: Final = 0.01
_RESET_NOW = struct.pack("ii", 1, 0)
_TCP_CLOSE: Final = 7

State = collections.abc.Callable[[], object]


class End(enum.Enum):
    """How a stream ended for the one who read it."""

    FIN = "a clean end (FIN)"
    RESET = "a reset"


async def until(condition: State) -> None:
    """Wait until `condition` holds; the caller sets the deadline.

    For state of the kernel that announces no change: queue lengths, the socket tables.
    """
    while not condition():  # noqa: ASYNC110  # nothing signals a change of these
        await asyncio.sleep(_POLL)


async def until_settled(state: State) -> None:
    """Wait until `state` has been the same for a while; the caller sets the deadline."""
    loop = asyncio.get_running_loop()
    before, since = state(), loop.time()

    def settled() -> bool:
        nonlocal before, since
        now = state()
        if now != before:
            before, since = now, loop.time()
        return loop.time() - since >= _SETTLED

    await until(settled)


async def readable(sock: socket.socket) -> None:
    """Wait until a socket, which may be a listener, has something to read or to accept."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _set_once, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _set_once(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class Actor:
    """Plays one end. Owns its socket: `close` or `reset` gives it back, at the latest the rig.

    The kernel reports a reset once, to send or to recv; after a failed send, recv would return
    b"" as for FIN. An actor remembers the failure, so that a reset stays one for its reader.

    The loop's socket calls return without yielding when they need not wait, so each is preceded
    by a yield: else one busy actor would starve the others and every deadline.
    """

    def __init__(self, sock: socket.socket, name: str) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.name = name
        self.sent = 0
        self.received = 0
        self._send_failure: OSError | None = None
        self._digest = hashlib.sha256()
        self._buffer = bytearray(PIECE)

    def restart(self) -> None:
        """Count and digest only what comes from now on."""
        self.received = 0
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The digest of all that was received so far."""
        return self._digest.hexdigest()

    async def send(self, data: bytes) -> None:
        """Send all of `data`; a ConnectionError says who was cut off where."""
        loop = asyncio.get_running_loop()
        view = memoryview(data)
        for start in range(0, len(data), PIECE):
            piece = view[start : start + PIECE]
            await asyncio.sleep(0)
            try:
                await loop.sock_sendall(self.sock, piece)
            except OSError as error:
                self._send_failure = self._cut_off(error, f"sending byte {self.sent}")
                raise self._send_failure from error
            self.sent += len(piece)

    async def send_stream(
        self, source: stream.Stream, size: int, chunks: random.Random | None = None
    ) -> None:
        """Send the first `size` bytes of `source`, in pieces of random length if given a source."""
        offset = 0
        while offset < size:
            piece = chunks.randint(1, 2 * PIECE) if chunks else PIECE
            piece = min(piece, size - offset)
            await self.send(source.read(offset, piece))
            offset += piece

    async def send_urgent(self, byte: bytes) -> None:
        """Send one byte as TCP urgent data."""

        def taken() -> bool:
            try:
                return self.sock.send(byte, socket.MSG_OOB) == 1
            except BlockingIOError:
                return False

        await until(taken)
        self.sent += 1

    async def receive(self, limit: int = PIECE) -> bytes:
        """Return what is there, at most `limit` bytes; b"" is a clean end, a reset raises."""
        loop = asyncio.get_running_loop()
        view = memoryview(self._buffer)[: min(limit, PIECE)]
        await asyncio.sleep(0)
        try:
            count = await loop.sock_recv_into(self.sock, view)
        except OSError as error:
            raise self._cut_off(error, f"awaiting byte {self.received}") from error
        if count == 0 and self._send_failure is not None:
            raise self._send_failure
        data = bytes(view[:count])
        self.received += count
        self._digest.update(data)
        return data

    async def brings_bytes(self) -> bool:
        """Wait for the next byte, which is left there, or for the end: False."""
        while True:
            try:
                return bool(self.sock.recv(1, socket.MSG_PEEK))
            except BlockingIOError:
                await readable(self.sock)
            except OSError as error:
                self._send_failure = self._cut_off(error, f"awaiting byte {self.received}")
                return False

    async def receive_exactly(self, size: int) -> bytes:
        """Return exactly `size` bytes; an end before that is an AssertionError."""
        data = bytearray()
        while len(data) < size:
            piece = await self.receive(size - len(data))
            assert piece, f"{self.name} saw a clean end after {self.received} bytes, too early"
            data += piece
        return bytes(data)

    async def receive_to_end(self, checker: stream.Checker | None = None) -> End:
        """Read until the stream ends, checking every byte, and say how it ended."""
        with contextlib.suppress(ConnectionError):
            while data := await self.receive():
                if checker is None:
                    continue
                checker.feed(data)
            return End.FIN
        return End.RESET

    def shut_write(self) -> None:
        """Half-close: send FIN, go on reading."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._cut_off(error, "half-closing") from error

    def reset(self) -> None:
        """Send RST now."""
        if self.sock.fileno() >= 0:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_NOW)
        self.sock.close()

    def close(self) -> None:
        """Close as a program's close() or exit does; the kernel decides between FIN and RST."""
        self.sock.close()

    def in_flight(self) -> int:
        """Bytes sent that the other kernel has not acknowledged (SIOCOUTQ); 0 once closed."""
        if self.sock.fileno() < 0:
            return 0
        answer = fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        return int.from_bytes(answer, "little")

    def waiting(self) -> int:
        """Bytes that have arrived and were not read (FIONREAD)."""
        answer = fcntl.ioctl(self.sock.fileno(), termios.FIONREAD, b"\0" * 4)
        return int.from_bytes(answer, "little")

    def is_dead(self) -> bool:
        """Whether the kernel has given the connection up: reset, or closed on both sides."""
        state: int = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[0]
        return state == _TCP_CLOSE

    def syns_repeated(self) -> int:
        """How often the kernel has sent the SYN again, of a client that is not connected."""
        again: int = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[2]
        return again

    async def until_blocked(self) -> None:
        """Wait until a sender that is at work elsewhere moves no byte any more."""
        await until_settled(lambda: (self.sent, self.in_flight()))

    def _cut_off(self, error: OSError, doing: str) -> OSError:
        name = errno.errorcode.get(error.errno or 0, "error")
        sentence = f"{self.name} got {name} while {doing}"
        kind = type(error) if isinstance(error, ConnectionError) else OSError
        if error.errno == errno.ENOTCONN:
            kind = ConnectionResetError
        return kind(error.errno, sentence)
