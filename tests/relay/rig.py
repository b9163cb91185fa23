"""What a case is given: matched pairs of actors around the proxy, deadlines, a sweep.

The suite is the backend: it listens where the proxy forwards to. Ordinary cases open one
connection at a time, so the next one accepted is its other end; nothing is sent to find out.
"""

import asyncio
import collections.abc
import contextlib
import dataclasses
import os
import pathlib
import socket
from typing import Final, TypeVar

from tests.relay import actor, sockets

Address = tuple[str, int]
Number = TypeVar("Number", int, float)
Exchange = collections.abc.Callable[[actor.Actor], collections.abc.Awaitable[None]]
Place = collections.abc.Callable[[], contextlib.AbstractContextManager[object]]

PROMPT: Final = 15.0
"""Seconds within which something that needs no waiting for must be seen; generous, because the
machine may be busy."""

BACKLOG: Final = 1024


class Unknown(Exception):  # noqa: N818  # not an error: nothing can be said either way
    """The case cannot be judged here; the sentence says what is missing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """The proxy under test, the backend's listener, and what is known about the proxy.

    The listener belongs to the caller that made the target. `client_place` and `backend_place` are
    entered while a socket of that side is made (a network namespace, say). What needs no waiting
    for must be seen within `prompt` seconds. `greet` and `expect_greeting` are for a proxy that
    wants something before a client's first byte, and sends something before it.
    """

    proxy: Address
    listener: socket.socket
    pid: int | None = None
    half_close_timeout: float | None = None
    client_place: Place = contextlib.nullcontext
    backend_place: Place = contextlib.nullcontext
    prompt: float = PROMPT
    greet: Exchange | None = None
    expect_greeting: Exchange | None = None

    @property
    def backend(self) -> Address:
        """Where the listener listens."""
        host, port = self.listener.getsockname()[:2]
        return host, port


def listen(backend: Address) -> socket.socket:
    """Return a listener at `backend` (port 0: any); OSError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in backend[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(backend)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


async def accept_from(listener: socket.socket) -> socket.socket:
    """Accept one connection; unlike loop.sock_accept, a cancellation loses no accepted socket."""
    while True:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            return listener.accept()[0]
        await actor.readable(listener)


class Rig:
    """One case's bench. `long` asks for the catalogue's full sizes and waits."""

    def __init__(self, target: Target, *, long: bool = False, seed: int = 1) -> None:
        self.target = target
        self.long = long
        self.seed = seed
        self.notes: list[str] = []
        self._actors: list[actor.Actor] = []
        self._pairing = asyncio.Lock()
        self._was_held_up = False
        self._before: frozenset[int] = frozenset()
        self._fds_before = 0

    def scale(self, short: Number, long: Number) -> Number:
        """Return the case's size or wait for the lane this run is in."""
        return long if self.long else short

    def note(self, sentence: str) -> None:
        """Record what was seen, for the report of a case that passes."""
        self.notes.append(sentence)

    async def connect(self, *, rcvbuf: int | None = None) -> actor.Actor:
        """Connect a client to the proxy."""
        with self.target.client_place():
            sock = socket.socket(_family(self.target.proxy), socket.SOCK_STREAM)
        client = self._hold(actor.Actor(sock, "the client"))
        if rcvbuf is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        async with self.within("the client connects"):
            await asyncio.get_running_loop().sock_connect(sock, self.target.proxy)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.target.greet is not None:
            await self.target.greet(client)
        return client

    async def accept(self) -> actor.Actor:
        """Accept the proxy's next connection as the backend; the caller sets the deadline."""
        return await self._greeted(await self._accepted())

    async def accept_speaking(self) -> actor.Actor:
        """`accept` the next connection that brings a byte, after a dial that was held up.

        A proxy may look whether such an endpoint is back: that connection ends without a byte.
        """
        while not await (backend := await self._accepted()).brings_bytes():
            backend.close()
            self.forget(backend)
        return await self._greeted(backend)

    async def _accepted(self) -> actor.Actor:
        sock = await accept_from(self.target.listener)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._hold(actor.Actor(sock, "the backend"))

    async def _greeted(self, backend: actor.Actor) -> actor.Actor:
        if self.target.expect_greeting is not None:
            await self.target.expect_greeting(backend)
        return backend

    async def pair(self, *, rcvbuf: int | None = None) -> tuple[actor.Actor, actor.Actor]:
        """Return both ends of a new connection through the proxy, nothing sent yet.

        `rcvbuf` bounds the client's receive buffer. The backend's cannot be: to shrink it after
        the handshake would take back a window already offered, and the transfer would crawl.
        """
        async with self._pairing:
            client = await self.connect(rcvbuf=rcvbuf)
            async with self.within("the proxy connects to the backend"):
                backend = await self.accept()
        return client, backend

    async def begin(self) -> None:
        """Throw away what an earlier case left in the accept queue and take the sweep's base."""
        self._discard_queue()
        self._before = frozenset(entry.inode for entry in self._held_by_proxy())
        self._fds_before = self._socket_fds()

    async def _show_that_backend_is_well(self) -> None:
        """Let a dial succeed: a proxy whose dial was held up may look later whether one does.

        That connection would be taken for a client's of the next case.
        """
        with contextlib.suppress(TimeoutError, OSError, AssertionError):
            async with asyncio.timeout(self.target.prompt):
                client = await self.connect()
                await client.send(b"?")
                await self.accept_speaking()

    def forget(self, *ends: actor.Actor) -> None:
        """Let go of ends that a case has closed itself (for cases with thousands)."""
        gone = set(map(id, ends))
        self._actors = [end for end in self._actors if id(end) not in gone]

    async def until_let_go(self) -> None:
        """Wait until no connection of this case is left, not even a dial; the caller is in time.

        With its accept queue full a backend hears of some clients only after a pause.
        """
        await actor.until(lambda: not self._left())

    async def sweep(self) -> str | None:
        """Reset every end still open, and wait until the proxy has let go of this case's sockets.

        Returns a sentence when it has not. A connection the proxy makes only now is reset too.
        """
        if self._was_held_up:
            await self._show_that_backend_is_well()
        for end in self._actors:
            end.reset()
        self._actors.clear()

        def all_gone() -> bool:
            self._discard_queue()
            return not self._left() and self._socket_fds() <= self._fds_before

        try:
            # A dial whose client is gone may still be retransmitting its SYN.
            async with asyncio.timeout(2 * self.target.prompt):
                await actor.until(all_gone)
        except TimeoutError:
            left = self._left()
            states = ", ".join(sorted({entry.state_name for entry in left})) or "dead ones"
            count = len(left) or self._socket_fds() - self._fds_before
            return f"the proxy still holds {count} sockets of it ({states})"
        return None

    @contextlib.asynccontextmanager
    async def within(
        self, what: str, seconds: float | None = None
    ) -> collections.abc.AsyncIterator[None]:
        """Require that the block ends in time; `what` says what it waits for ("X does Y")."""
        limit = self.target.prompt if seconds is None else seconds
        try:
            async with asyncio.timeout(limit):
                yield
        except TimeoutError:
            raise AssertionError(f"waited {limit:g} s in vain: {what}") from None

    @contextlib.asynccontextmanager
    async def full_backlog(self) -> collections.abc.AsyncIterator[None]:
        """Let the kernel drop every SYN for the backend until the block ends.

        A listen backlog of 0 holds one connection; a plug is put there. On leaving, the plug is
        taken out and the backlog is as before, so the dialler's next SYN is answered.
        """
        self._was_held_up = True
        listener = self.target.listener
        listener.listen(0)
        with self.target.backend_place():
            plug = socket.socket(_family(self.target.backend), socket.SOCK_STREAM)
        try:
            plug.setblocking(False)
            plug.connect_ex(self.target.backend)
            async with self.within("the backend's listen queue is full"):
                await actor.until(lambda: _queue_is_full(listener))
            yield
        finally:
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
            plug.close()
            listener.listen(BACKLOG)

    def dials(self) -> int:
        """Count the proxy's connection attempts that are waiting for an answer."""
        table = sockets.table()
        if not (sockets.has_listener(table, self.target.proxy) or self._is_here()):
            raise Unknown("the proxy's dials cannot be watched: it is not on this host")
        return sum(e.remote == self.target.backend and e.state == sockets.SYN_SENT for e in table)

    def rss(self) -> int | None:
        """Return the proxy's resident memory in bytes; None when no pid is known."""
        if self.target.pid is None:
            return None
        for line in pathlib.Path(f"/proc/{self.target.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return None

    def judge_growth(self, before: int | None, limit: int) -> None:
        """Require that the proxy's memory is not `limit` bytes above `before`.

        A proxy in this very process is given four times that: the suite's own buffers are there.
        """
        now = self.rss()
        if before is None or now is None:
            self.note("memory not judged: no --pid")
            return
        allowed = limit * 4 if self.target.pid == os.getpid() else limit
        grown = now - before
        assert grown < allowed, (
            f"the proxy's memory grew by {grown >> 10} KiB while a reader paused"
        )

    def _hold(self, end: actor.Actor) -> actor.Actor:
        self._actors.append(end)
        return end

    def _discard_queue(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            while True:
                actor.Actor(self.target.listener.accept()[0], "a late connection").reset()

    def _held_by_proxy(self) -> list[sockets.Entry]:
        ends = {self.target.proxy, self.target.backend}
        return [e for e in sockets.table() if e.is_open and {e.local, e.remote} & ends]

    def _socket_fds(self) -> int:
        """Count the proxy's sockets; 0 when no pid is known. The tables omit what is CLOSED."""
        if self.target.pid is None:
            return 0
        count = 0
        for fd in pathlib.Path(f"/proc/{self.target.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                count += str(fd.readlink()).startswith("socket:")
        return count

    def _is_here(self) -> bool:
        """Whether the proxy is in this network namespace: with sk_lookup it listens elsewhere."""
        if self.target.pid is None:
            return False
        ours, its = (
            pathlib.Path(f"/proc/{each}/ns/net") for each in ("thread-self", self.target.pid)
        )
        return ours.samefile(its)

    def _left(self) -> list[sockets.Entry]:
        return [entry for entry in self._held_by_proxy() if entry.inode not in self._before]


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _queue_is_full(listener: socket.socket) -> bool:
    """For a listener, TCP_INFO tells the queue's length as unacked and its limit as sacked."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    length, limit = (int.from_bytes(info[at : at + 4], "little") for at in (24, 28))
    return length > limit
