"""One edge-triggered epoll for every socket of the data path, nested in the asyncio loop.

Why an epoll of our own. asyncio's transports cost 2.5 times the CPU of HAProxy per connection,
and uvloop 0.22 could close a file descriptor twice when a connect was cancelled, which handed
one user's response to another (uvloop 645, 738). So the event loop watches one descriptor, this
epoll's, and never a data-path socket.

Edge-triggered means: an event says that something *changed*, once. Its handler must go on until the
kernel says EAGAIN, or remember that there is more. A descriptor is registered once and
hardly ever modified, so a connection costs two `epoll_ctl` calls in its life.

The file descriptor number is all that an event carries, and the kernel hands a closed number out
again at once. Two rules keep one connection's event from reaching another:

- a closed connection leaves the table at once and its sockets are closed only after the last
  event of the batch, so no socket made in this batch can have its number;
- an event whose number is not in the table is dropped and counted (`stale_events`).
"""

import asyncio
import select
import time
from collections.abc import Sequence
from typing import Protocol

import structlog

from kproxy.datapath import syscalls

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
PEER_CLOSED = select.EPOLLRDHUP
URGENT = select.EPOLLPRI
BROKEN = select.EPOLLERR | select.EPOLLHUP
RELAY = READABLE | PEER_CLOSED | URGENT | select.EPOLLET
"""What a relayed socket is registered for. WRITABLE is added when a write first finds its
buffer full: registering for it from the start makes the kernel report it once for nothing."""
RELAY_BOTH = RELAY | WRITABLE

_MAX_EVENTS = 512
_TURN_SECONDS = 0.002
"""How long one turn may hold the event loop before the control plane gets its chance."""

_log = structlog.get_logger(__name__)


class EventHandler(Protocol):
    """The owner of a registered descriptor."""

    def on_events(self, mask: int) -> None:
        """Handle an edge. Must not raise; if it does, `on_bug` ends this handler only."""

    def on_bug(self) -> None:
        """An exception escaped `on_events`: release what is owned, as an abort."""


class Resumable(Protocol):
    """A handler that used up its budget and wants another turn."""

    def resume(self) -> None:
        """Go on where the budget ended."""

    def on_bug(self) -> None:
        """An exception escaped `resume`: release what is owned, as an abort."""


class Closable(Protocol):
    """A socket whose close waits for the end of the batch."""

    def close(self) -> None: ...


class Unregistered:
    """The handler of every descriptor that is not registered: counts the events that come."""

    __slots__ = ("events",)

    def __init__(self) -> None:
        self.events = 0

    def __bool__(self) -> bool:
        """An empty place in the table is false, as None would be."""
        return False

    def on_events(self, mask: int) -> None:  # noqa: ARG002  # as an EventHandler's
        """A stale event: its connection ended earlier in this batch."""
        self.events += 1

    def on_bug(self) -> None:
        """Nothing is owned."""


class Poller:
    """The data path's event loop: one per process, driven by the asyncio loop it is nested in.

    Owns its epoll descriptor, and every socket given to `close_later`.
    """

    def __init__(self, kernel: syscalls.Kernel) -> None:
        self._epoll = kernel.epoll()
        self._poll = self._epoll.poll
        self._watch = self._epoll.register
        self._peek = select.poll()
        self._peek.register(self._epoll.fileno(), select.POLLIN)
        self._unregistered = Unregistered()
        self._handlers: list[EventHandler] = [self._unregistered] * 1024
        self._closing: list[Closable] = []
        self._ready: dict[Resumable, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._again: asyncio.Handle | None = None
        self._turning = False
        self.now = time.monotonic()
        """Monotonic seconds, read once per batch."""
        self.settled_at = 0.0
        """A moment: every event that was due then has been handled. Never in the future, and behind
        while there are more events than a batch holds."""
        self.bugs = 0

    @property
    def stale_events(self) -> int:
        """Events that came for a descriptor after its connection had ended."""
        return self._unregistered.events

    @property
    def has_events(self) -> bool:
        """Whether a handler waits for its turn: another user of this thread should let it pass."""
        return bool(self._ready or self._peek.poll(0))

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let `loop` drive this poller until `close`."""
        self._loop = loop
        loop.add_reader(self._epoll.fileno(), self.turn)

    def close(self) -> None:
        """Detach from the event loop and close the epoll. Every handler must be gone by now."""
        if self._loop is not None:
            self._loop.remove_reader(self._epoll.fileno())
        if self._again is not None:
            self._again.cancel()
        self._flush_closing()
        self._peek.unregister(self._epoll.fileno())
        self._epoll.close()

    def register(self, fd: int, handler: EventHandler, events: int) -> None:
        """Watch `fd`; raises OSError as epoll_ctl(2) does. `fd` stays the caller's."""
        self._watch(fd, events)
        try:
            self._handlers[fd] = handler
        except IndexError:
            self._grow(fd)
            self._handlers[fd] = handler

    def register_pair(
        self, fd: int, handler: EventHandler, fd2: int, handler2: EventHandler
    ) -> None:
        """`register` both for RELAY, in one call."""
        watch = self._watch
        watch(fd, RELAY)
        watch(fd2, RELAY)
        handlers = self._handlers
        try:
            handlers[fd] = handler
            handlers[fd2] = handler2
        except IndexError:
            self._grow(max(fd, fd2))
            handlers[fd] = handler
            handlers[fd2] = handler2

    def _grow(self, fd: int) -> None:
        """Make room in the table for `fd`."""
        self._handlers.extend([self._unregistered] * (fd + 1024 - len(self._handlers)))

    def rearm(self, fd: int, events: int) -> None:
        """Change what `fd` is watched for; the kernel reports its present readiness anew."""
        self._epoll.modify(fd, events)

    def replace(self, fd: int, handler: EventHandler) -> None:
        """Give the events of a registered `fd` to another handler."""
        self._handlers[fd] = handler

    def is_registered(self, fd: int, handler: EventHandler) -> bool:
        """Whether the events of `fd` go to `handler`."""
        return fd < len(self._handlers) and self._handlers[fd] is handler

    def unregister(self, fd: int) -> None:
        """Stop watching `fd`, which stays open."""
        self._handlers[fd] = self._unregistered
        self._epoll.unregister(fd)

    def close_later(self, fd: int, sock: Closable) -> None:
        """Take over `sock`: no event reaches its handler any more; closed after this batch.

        Closing removes it from the epoll too, since nothing else shares its file description
        (every socket is close-on-exec, and no process is forked after the epoll exists).
        """
        if fd < len(self._handlers):
            self._handlers[fd] = self._unregistered
        self._closing.append(sock)
        if not self._turning:
            self._schedule()

    def close_pair_later(self, fd: int, sock: Closable, fd2: int, sock2: Closable) -> None:
        """`close_later` for both sockets of a connection, in one call."""
        handlers = self._handlers
        try:  # noqa: SIM105  # once per connection: suppress() would be a call
            handlers[fd] = handlers[fd2] = self._unregistered
        except IndexError:
            pass  # registering them had failed
        self._closing += (sock, sock2)
        if not self._turning:
            self._schedule()

    def handlers(self) -> Sequence[EventHandler]:
        """The table itself, by descriptor number, for sweeps; not to be changed."""
        return self._handlers

    def resume_later(self, target: Resumable) -> None:
        """Call `target.resume()` once, after all other handlers have had their turn."""
        self._ready[target] = None
        if not self._turning:
            self._schedule()

    def _schedule(self) -> None:
        if self._again is None and self._loop is not None:
            self._again = self._loop.call_soon(self.turn)

    def is_waiting(self, target: object) -> bool:
        """Whether `target` is yet to be resumed."""
        return target in self._ready

    def note_bug(self) -> None:
        """Count the exception being handled, and log it, ever more rarely.

        A bug in one connection ends that connection and no other; its handler sees to that.
        """
        self.bugs += 1
        if self.bugs & (self.bugs - 1) == 0:
            _log.exception("internal error: one connection was ended", bugs_so_far=self.bugs)

    def turn(self) -> None:
        """Handle batches of events until there are none, or until the turn's time is up."""
        self._again = None
        self._turning = True
        handlers = self._handlers
        poll = self._poll
        monotonic = time.monotonic
        self.now = now = monotonic()
        deadline = now + _TURN_SECONDS
        while True:
            events = poll(0, _MAX_EVENTS)
            for fd, mask in events:
                handler = handlers[fd]
                try:
                    handler.on_events(mask)
                except Exception:
                    self.note_bug()
                    handler.on_bug()
            if self._ready:
                self._resume_ready()
            if self._closing:
                self._flush_closing()
            if len(events) < _MAX_EVENTS:
                self.settled_at = now
            self.now = now = monotonic()
            if not events or now > deadline:
                break
        self._turning = False
        if self._ready:
            self._schedule()

    def _resume_ready(self) -> None:
        """Give each waiting target one budget; those that want more queue up again."""
        ready, self._ready = self._ready, {}
        for target in ready:
            try:
                target.resume()
            except Exception:
                self.note_bug()
                target.on_bug()

    def _flush_closing(self) -> None:
        closing = self._closing
        self._closing = []
        for sock in closing:
            sock.close()
