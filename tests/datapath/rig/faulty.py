"""A kernel that misbehaves by the dice, within what a real one may do at any time.

Short reads and writes, calls that would block although there is something to do, refused
splices, exhausted tables: each is legal, most are rare, and a relay must be exact under all.

The data path is edge-triggered: it takes a short read for a drained socket and EAGAIN for a
promise of another event. A kernel that cut a call short for no reason owes that event, so after
every lie the socket is re-armed: epoll then reports its readiness anew, as if more had just come.
Once EPOLLRDHUP has been reported nothing more can come, so no read is cut short after that.
"""

import _socket
import errno
import os
import random
import select
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from kproxy.datapath import syscalls
from kproxy.model import addresses

if TYPE_CHECKING:
    from collections.abc import Callable

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_LOST_CLIENT = (errno.ECONNABORTED, errno.EPROTO)
_FEW = 8
"""Bytes that a call cut short moves at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often each lie is told: 0.0 never, 1.0 always."""

    short: float = 0.0
    """A recv, send or splice moves one byte or a few."""
    again: float = 0.0
    """A recv, send or splice says EAGAIN."""
    refused_splice: float = 0.0
    """A splice from a socket says EINVAL, before any byte has moved."""
    no_pipe: float = 0.0
    """pipe2 says EMFILE."""
    lost_client: float = 0.0
    """accept fails with what is the client's doing. This kernel then offers the next client."""
    no_accept: float = 0.0
    """accept fails for lack of descriptors or memory."""
    disorder: float = 0.0
    """A batch of events is shuffled, and cut short: the rest comes with the next."""


ROUGH = Rates(
    short=0.2,
    again=0.2,
    refused_splice=0.2,
    no_pipe=0.2,
    lost_client=0.2,
    no_accept=0.002,
    disorder=0.5,
)
"""Everything, often enough that each connection meets something."""


class FaultyEpoll:
    """An epoll that remembers masks, so that it can re-arm, and can hold events back."""

    def __init__(self, kernel: "FaultyKernel") -> None:
        self._kernel = kernel
        self._real = select.epoll()
        self.masks: dict[int, int] = {}
        self.held: dict[int, int] = {}
        """Bits that do not arrive, by descriptor, until they are released: lost edges."""
        self.ended: set[int] = set()
        """Descriptors whose FIN or failure has been reported."""
        self.polls = 0

    def fileno(self) -> int:
        return self._real.fileno()

    def close(self) -> None:
        self._real.close()

    def register(self, fd: int, mask: int) -> None:
        self._kernel.fail_if_asked("register")
        self._real.register(fd, mask)
        self.masks[fd] = mask

    def modify(self, fd: int, mask: int) -> None:
        self._real.modify(fd, mask)
        self.masks[fd] = mask

    def unregister(self, fd: int) -> None:
        self._real.unregister(fd)
        self.forget(fd)

    def rearm(self, fd: int) -> None:
        """Let the kernel report the readiness of `fd` anew, if it is watched at all."""
        mask = self.masks.get(fd)
        if mask is not None:
            self._real.modify(fd, mask)

    def release(self, fd: int) -> None:
        """Hold nothing back any more, and report now what is ready: an edge comes only once."""
        del self.held[fd]
        self.rearm(fd)

    def forget(self, fd: int) -> None:
        """`fd` is about to be closed, and its number to be used again."""
        self.masks.pop(fd, None)
        self.held.pop(fd, None)
        self.ended.discard(fd)

    def poll(self, timeout: float, limit: int) -> list[tuple[int, int]]:
        """Wait as epoll does, then mix the batch up if the dice say so."""
        self.polls += 1
        if self._kernel.decides(self._kernel.rates.disorder):
            limit = self._kernel.rng.randint(1, 8)
        events = self._real.poll(timeout, limit)
        if self._kernel.decides(self._kernel.rates.disorder):
            self._kernel.rng.shuffle(events)
        events = [(fd, left) for fd, mask in events if (left := mask & ~self.held.get(fd, 0))]
        self.ended.update(fd for fd, mask in events if mask & select.EPOLLRDHUP)
        return events


class FaultySocket(_socket.socket):
    """A socket of the data path whose calls may be cut short."""

    kernel: "FaultyKernel"
    is_dialled = False

    def recv_into(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # as the seam has it
        kernel = self.kernel
        kernel.note("recv", self.fileno())
        kernel.fail_if_asked("recv")
        fd = self.fileno()
        if kernel.decides(kernel.rates.again):
            kernel.rearm(fd)
            raise BlockingIOError(errno.EAGAIN, "not now")
        if kernel.decides(kernel.rates.short) and not kernel.has_announced_end(fd):
            kernel.rearm(fd)
            return super().recv_into(memoryview(buffer)[: kernel.few()])
        return super().recv_into(buffer)

    def send(self, data: bytes | memoryview, flags: int = 0, /) -> int:  # type: ignore[override]  # as the seam has it
        kernel = self.kernel
        kernel.note("send", self.fileno())
        kernel.fail_if_asked("send")
        fd = self.fileno()
        if kernel.decides(kernel.rates.again):
            kernel.rearm(fd)
            raise BlockingIOError(errno.EAGAIN, "not now")
        if kernel.decides(kernel.rates.short):
            kernel.rearm(fd)
            return super().send(data[: kernel.few()], flags)
        return super().send(data, flags)

    def connect_ex(self, address: tuple[str, int], /) -> int:  # type: ignore[override]  # as the seam has it
        code = self.kernel.asked_failure("connect")
        return code or super().connect_ex(address)

    def close(self) -> None:
        self.kernel.forget(self.fileno())
        super().close()


class FaultyKernel(syscalls.Kernel):
    """The system calls of a data path, wrong at `rates`. The same seed gives the same dice.

    With the rates at zero it lies only as told: `fail` makes coming calls fail, and `sockets`
    shows what was handed out and is still open.
    """

    def __init__(self, rates: Rates | None = None, seed: int = 0) -> None:
        self.rates = rates or Rates()
        self.rng = random.Random(seed)
        self.watcher: FaultyEpoll | None = None
        self.sockets: dict[int, FaultySocket] = {}
        """Open sockets by descriptor: accepted ones, and those that dial or have dialled."""
        self.on_call: Callable[[str, int], None] | None = None
        """Told of each call by name and descriptor, before it is made."""
        self.prepare_dial: Callable[[FaultySocket], None] | None = None
        """Given each socket that is about to dial."""
        self._asked: dict[str, deque[int]] = {}

    def fail(self, call: str, code: int, times: int = 1) -> None:
        """Let the next `times` calls of that name fail with an errno; 0 stands for a bug."""
        self._asked.setdefault(call, deque()).extend([code] * times)

    def relent(self) -> None:
        """Forget the failures that were asked for and have not happened."""
        self._asked.clear()

    def asked_failure(self, call: str) -> int:
        """The errno that this call was asked to fail with, else 0."""
        queue = self._asked.get(call)
        return queue.popleft() if queue else 0

    def fail_if_asked(self, call: str) -> None:
        """Raise what was asked for, if anything was."""
        queue = self._asked.get(call)
        if queue:
            code = queue.popleft()
            if not code:
                raise RuntimeError(f"a bug in {call}, as asked")
            raise OSError(code, f"{os.strerror(code)}, as asked")

    def decides(self, rate: float) -> bool:
        """Throw the dice."""
        return rate > 0 and self.rng.random() < rate

    def few(self) -> int:
        """How many bytes a call cut short moves."""
        return self.rng.randint(1, _FEW)

    def rearm(self, fd: int) -> None:
        """Owe the data path an event for `fd`, and deliver it."""
        if self.watcher is not None:
            self.watcher.rearm(fd)

    def has_announced_end(self, fd: int) -> bool:
        """Whether the data path has been told that no more will come."""
        return self.watcher is not None and fd in self.watcher.ended

    def forget(self, fd: int) -> None:
        """A socket is being closed."""
        self.sockets.pop(fd, None)
        if self.watcher is not None:
            self.watcher.forget(fd)

    def note(self, call: str, fd: int) -> None:
        """Report a call to the listeners."""
        if self.on_call is not None:
            self.on_call(call, fd)

    def accept(
        self, listener: syscalls.StreamSocket
    ) -> tuple[syscalls.StreamSocket, int, syscalls.Name]:
        self.fail_if_asked("accept")
        for rate, codes in (
            (self.rates.lost_client, _LOST_CLIENT),
            (self.rates.no_accept, EXHAUSTED),
        ):
            if self.decides(rate):
                code = self.rng.choice(codes)
                raise OSError(code, os.strerror(code))
        sock, fd, source = super().accept(listener)
        return self._adopt(cast("_socket.socket", sock)), fd, source

    def stream_socket(self, backend: addresses.SocketAddress) -> syscalls.StreamSocket:
        self.fail_if_asked("socket")
        sock = self._adopt(cast("_socket.socket", super().stream_socket(backend)))
        sock.is_dialled = True
        if self.prepare_dial is not None:
            self.prepare_dial(sock)
        return sock

    def epoll(self) -> select.epoll:
        self.watcher = FaultyEpoll(self)
        return cast("select.epoll", self.watcher)

    def pipe(self, size: int) -> tuple[int, int, int]:
        self.fail_if_asked("pipe")
        if self.decides(self.rates.no_pipe):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().pipe(size)

    def splice(self, source: int, destination: int, count: int) -> int:
        fills = source in self.sockets
        fd = source if fills else destination
        self.note("fill" if fills else "drain", fd)
        self.fail_if_asked("fill" if fills else "drain")
        if fills and self.decides(self.rates.refused_splice):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if self.decides(self.rates.again):
            self.rearm(fd)
            raise BlockingIOError(errno.EAGAIN, "not now")
        if self.decides(self.rates.short):
            count = min(count, self.few())
        return super().splice(source, destination, count)

    def unread(self, fd: int) -> int:
        self.fail_if_asked("unread")
        return super().unread(fd)

    def _adopt(self, sock: _socket.socket) -> FaultySocket:
        """Take over the descriptor of a plain socket."""
        family = sock.family
        adopted = FaultySocket(family, syscalls.STREAM, 0, sock.detach())
        adopted.kernel = self
        self.sockets[adopted.fileno()] = adopted
        return adopted
