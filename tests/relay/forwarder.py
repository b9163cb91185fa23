"""A small, slow forwarder for judging the suite itself: faultless, or broken in one chosen way.

It is no model for a data path: it polls the kernel to notice resets. Its use is to show that every
case can be passed, and that each is failed by a proxy with the mistake the case is about.
"""

import asyncio
import contextlib
import enum
import socket
import struct
import threading
from typing import Final

from tests.relay import rig

_CHUNK: Final = 64 * 1024
_GLANCE: Final = 0.02
_RESET_NOW = struct.pack("ii", 1, 0)
_TCP_CLOSE_WAIT: Final = 8
_DEAD_PEER: Final = (
    (socket.TCP_KEEPIDLE, 1),
    (socket.TCP_KEEPINTVL, 1),
    (socket.TCP_KEEPCNT, 2),
    (socket.TCP_USER_TIMEOUT, 60_000),
)


class Fault(enum.Enum):
    """One mistake that real proxies make."""

    CLOSES_BOTH_ON_EOF = "the first end of stream closes both sides"
    RESET_AS_EOF = "a reset is passed on as a clean end"
    EOF_AS_RESET = "a clean end is passed on as a reset"
    DROPS_TAIL = "the last byte before an end is lost"
    REPEATS = "some bytes are sent twice"
    LEAKS = "bytes of one connection go to another"
    DROPS_URGENT = "urgent data is left out of line"
    BUFFERS = "everything is taken into memory, whether the reader reads or not"
    IGNORES_SILENT_RESET = "a reset is noticed only while reading or writing"
    CLIENT_FIRST = "the backend is read only after the client has spoken"
    FIN_CANCELS_DIAL = "a half-close during the dial is taken for an abort"
    DIALS_ON = "the dial goes on for a client that has reset"
    NEVER_ENDS_HALF_CLOSED = "half-closed connections stay for ever"
    KEEPS_SOCKETS = "sockets of ended connections are kept"


class _Abort(Exception):  # noqa: N818  # a decision, not an error
    """Reset both legs."""


class _CloseBoth(Exception):  # noqa: N818  # a decision, not an error
    """Close both legs as they are."""


class Forwarder:
    """Forwards from `address`, a free port of `host`, to `backend` in a thread until `aclose`."""

    def __init__(
        self,
        backend: rig.Address,
        half_close_timeout: float,
        fault: Fault | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.backend = backend
        self.half_close_timeout = half_close_timeout
        self.fault = fault
        self.legs: set[socket.socket] = set()
        self.hoard: tuple[int, bytes] = (0, b"")
        self._listener = rig.listen((host, 0))
        self.address: rig.Address = self._listener.getsockname()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    async def aclose(self) -> None:
        """Reset what is open and end the thread."""
        self._loop.call_soon_threadsafe(self._stop)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()
            for sock in [self._listener, *self.legs]:
                sock.close()

    def _stop(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                client = await rig.accept_from(self._listener)
                group.create_task(_Connection(self, client).run())


class _Connection:
    """One client and its backend leg."""

    def __init__(self, owner: Forwarder, client: socket.socket) -> None:
        self._owner = owner
        self._fault = owner.fault
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._backend = socket.socket(client.family, socket.SOCK_STREAM)
        self._legs = [client]
        owner.legs |= {client, self._backend}
        self._ended = 0
        self._reset_met = False
        self._moved_at = self._loop.time()
        self._client_spoke = asyncio.Event()

    async def run(self) -> None:
        """Dial, relay, close."""
        for leg in (self._client, self._backend):
            leg.setblocking(False)
            leg.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            leg.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _DEAD_PEER:
                leg.setsockopt(socket.IPPROTO_TCP, option, value)
            if self._fault is not Fault.DROPS_URGENT:
                leg.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        reset = True
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch())
                await self._dial_and_relay()
                watching.cancel()
            reset = False
        except* _CloseBoth:
            reset = False
        except* (_Abort, OSError):
            reset = self._fault is not Fault.RESET_AS_EOF
        finally:
            self._close(reset)

    async def _dial_and_relay(self) -> None:
        await self._loop.sock_connect(self._backend, self._owner.backend)
        self._legs = [self._client, self._backend]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump(self._client, self._backend))
            if self._fault is Fault.CLIENT_FIRST:
                await self._client_spoke.wait()
            group.create_task(self._pump(self._backend, self._client))

    async def _watch(self) -> None:
        """Notice resets that no reader or writer meets, and the half-close timeout."""
        while True:
            await asyncio.sleep(_GLANCE)
            dialling = len(self._legs) == 1
            if not self._is_blind(dialling) and any(map(_is_reset, self._legs)):
                self._reset_met = True
                raise _Abort
            if dialling and self._fault is Fault.FIN_CANCELS_DIAL and _has_ended(self._client):
                raise _Abort
            silent = self._loop.time() - self._moved_at
            expired = self._ended and silent > self._owner.half_close_timeout
            if expired and self._fault is not Fault.NEVER_ENDS_HALF_CLOSED:
                raise _Abort

    def _is_blind(self, dialling: bool) -> bool:
        return self._fault is (Fault.DIALS_ON if dialling else Fault.IGNORES_SILENT_RESET)

    async def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        while data := await self._loop.sock_recv(source, _CHUNK):
            self._client_spoke.set()
            if self._fault is Fault.BUFFERS:
                data += await self._hoard_all(source)
            await self._send(sink, self._damaged(data, source))
            self._moved_at = self._loop.time()
        self._client_spoke.set()
        if self._reset_met:
            raise _Abort
        if self._fault is Fault.CLOSES_BOTH_ON_EOF:
            raise _CloseBoth
        if self._fault is Fault.EOF_AS_RESET:
            raise _Abort
        sink.shutdown(socket.SHUT_WR)
        self._ended += 1
        self._moved_at = self._loop.time()

    async def _send(self, sink: socket.socket, data: bytes) -> None:
        """Send, and remember a failure: the kernel reports a reset once, to send or to recv.

        The recv of the other direction would then return b"", as if the peer had sent FIN.
        """
        try:
            await self._loop.sock_sendall(sink, data)
        except OSError:
            self._reset_met = True
            raise

    async def _hoard_all(self, source: socket.socket) -> bytes:
        """Take whatever comes until nothing has come for a moment."""
        taken = bytearray()
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(_GLANCE):
                    piece = await self._loop.sock_recv(source, _CHUNK)
                if not piece:
                    break
                taken += piece
        return bytes(taken)

    def _damaged(self, data: bytes, source: socket.socket) -> bytes:
        owner = self._owner
        if self._fault is Fault.DROPS_TAIL and _ends_here(source):
            return data[:-1]
        if self._fault is Fault.REPEATS and len(data) > 4096:
            return data[:2048] + data
        if self._fault is Fault.LEAKS and len(data) > 4096:
            whose, bytes_of_it = owner.hoard
            owner.hoard = (id(self), data[1024:1088])
            if bytes_of_it and whose != id(self):
                return data[:2048] + bytes_of_it + data[2048 + len(bytes_of_it) :]
        return data

    def _close(self, reset: bool) -> None:
        for leg in (self._client, self._backend):
            if self._fault is Fault.KEEPS_SOCKETS:
                continue
            if reset:
                leg.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_NOW)
            leg.close()
            self._owner.legs.discard(leg)


def _is_reset(leg: socket.socket) -> bool:
    return leg.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def _has_ended(leg: socket.socket) -> bool:
    state: int = leg.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state == _TCP_CLOSE_WAIT


def _ends_here(leg: socket.socket) -> bool:
    try:
        return leg.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return False
