"""Accept clients: one level-triggered listening socket per bound address, or one for many.

Level-triggered, unlike everything else: after EMFILE an edge-triggered listener would get no event
until the *next* client came. Accepting never waits for a dial and never ends: when descriptors or
memory run out the listener is paused for a moment, and clients wait in the kernel's queue.
"""

import abc
import asyncio
import errno
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from kproxy import events
from kproxy.datapath import episodes, poller, syscalls
from kproxy.datapath.tcp import connection, sharing
from kproxy.datapath.tcp.accept import door
from kproxy.model import addresses, forwarding

ACCEPT_BUDGET = 16
"""Clients accepted per event, so that a flood of new ones cannot starve the relays."""
_RETRY_SECONDS = 0.1
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Gate:
    """The connection limit of a data path, and the listeners that wait for it or for resources.

    A listener that may not accept is taken out of the epoll, so a full proxy costs no CPU. As
    connections end, the listeners that wait accept one client each in the order in which they
    came, so every place that becomes free is taken and none of them starves.
    """

    def __init__(self, shared: sharing.Shared, limit: int, troubles: episodes.Episodes) -> None:
        self._shared = shared
        self._limit = limit
        self._waiting: deque[Acceptor] = deque()
        self.troubles = troubles
        self.admitted = limit
        """Connections below which a listener may accept by itself: the limit, or 0 while other
        listeners wait, which come first."""

    @property
    def limit(self) -> int:
        """How many connections may be open at once."""
        return self._limit

    @limit.setter
    def limit(self, count: int) -> None:
        self._limit = count
        if self._waiting:
            self._on_room()
        else:
            self.admitted = count

    def wait(self, listener: "Acceptor") -> None:
        """Keep `listener` until there is room; it must be paused."""
        if not self._waiting:
            self._shared.counters.accept_pauses += 1
            self._shared.on_room = self._on_room
            self.admitted = 0
        self._waiting.append(listener)
        self._note_full(0)
        self._on_room()  # it may have to wait for its turn alone

    def forget(self, listener: "Acceptor") -> None:
        """`listener` is being closed."""
        if listener in self._waiting:
            self._waiting.remove(listener)
            self._open_if_empty()

    def resume(self) -> None:
        """Let the waiting listeners accept, one client each in turn, while there is room."""
        waiting = self._waiting
        served = 0
        while waiting and served < ACCEPT_BUDGET and self._has_room():
            first = waiting.popleft()
            if first.accept_in_turn():
                waiting.append(first)
                served += 1
        self._note_full(served)
        self._open_if_empty()
        self._on_room()

    def on_bug(self) -> None:
        """Nothing is owned; the next connection that ends gives the others their chance."""

    def _on_room(self) -> None:
        """A connection has ended: the waiting listeners accept when this batch of events is over,
        by which time others may have ended too."""
        if self._waiting and self._has_room():
            self._shared.poller.resume_later(self)

    def _has_room(self) -> bool:
        return self._shared.connections < self._limit

    def _note_full(self, served: int) -> None:
        """The episode goes on while the limit is met, and counts the clients that waited."""
        self.troubles.note(
            episodes.FULL,
            details=lambda: {"limit": self._limit},
            times=served,
            goes_on=lambda: bool(self._waiting) or not self._has_room(),
        )

    def _open_if_empty(self) -> None:
        if not self._waiting:
            self._shared.on_room = None
            self.admitted = self._limit


class Starter(Protocol):
    """Takes over accepted clients. `dial.Dialer` satisfies it."""

    def start(self, accepted: Sequence[connection.Connection], /) -> None:
        """Take over clients that have just been accepted."""


class Acceptor(abc.ABC):
    """A listening socket in the poller. Owns its socket until `close`."""

    __slots__ = (
        "_accept",
        "_dialer",
        "_gate",
        "_is_exhausted",
        "_own_dials",
        "_retry",
        "_shared",
        "address",
        "fd",
        "is_paused",
        "sock",
    )

    def __init__(
        self,
        sock: syscalls.StreamSocket,
        shared: sharing.Shared,
        dialer: Starter,
        gate: Gate,
    ) -> None:
        """Raises OSError when it cannot be watched; `sock` is the caller's then."""
        self.sock = sock
        self.fd = sock.fileno()
        name = sock.getsockname()
        self.address = addresses.SocketAddress(name[0], name[1])
        self.is_paused = True
        self._is_exhausted = False
        self._retry: asyncio.TimerHandle | None = None
        self._shared = shared
        self._dialer = dialer
        self._gate = gate
        self._own_dials = shared.own_dials
        self._accept = shared.kernel.accept
        self.resume_accepting()

    @property
    @abc.abstractmethod
    def text(self) -> str:
        """The name of the listener in logs."""

    @abc.abstractmethod
    def on_events(self, mask: int) -> None:
        """Clients wait in the queue: accept some and start their dials."""

    @abc.abstractmethod
    def take(
        self, client: syscalls.StreamSocket, fd: int, source: syscalls.Name
    ) -> connection.Connection | None:
        """The connection of a client that was accepted; None if it was cut."""

    def accept_in_turn(self) -> bool:
        """Accept one client that waited for the connection limit, and start its dial.

        False when none is left, or none could be accepted: then this listener waits no longer,
        and is watched for clients again, at once or in a moment.
        """
        if self.fd < 0:
            return False
        for _ in range(ACCEPT_BUDGET):
            try:
                client, fd, source = self._accept(self.sock)
            except BlockingIOError:
                self._on_empty()
                self.resume_accepting()
                return False
            except OSError as error:
                if self._on_accept_error(error.errno or 0):
                    return False
                continue
            conn = self.take(client, fd, source)
            if conn is None:
                continue
            self._is_exhausted = False
            if self._shared.feed is not None:
                self._publish(self._shared.feed, (conn,))
            self._dialer.start((conn,))
            return True
        self.resume_accepting()
        return False

    @property
    def drops(self) -> int:
        """Connection requests that the kernel dropped because the queue was full; 0 once closed.

        Read from the kernel.
        """
        return syscalls.listen_drops(self.sock) if self.fd >= 0 else 0

    def on_bug(self) -> None:  # noqa: B027  # there is nothing to do
        """Nothing is owned beyond the socket: the next client gets its chance."""

    def resume_accepting(self) -> None:
        """Watch for clients again, if paused and not closed."""
        if self.is_paused and self.fd >= 0:
            try:
                self._shared.poller.register(self.fd, self, poller.READABLE)
            except OSError:
                self._retry_later()
            else:
                self.is_paused = False

    def close(self) -> None:
        """Stop accepting. Clients already in the kernel's queue are served first.

        Closing a listener resets its queue, so it is emptied up to the connection limit.
        """
        if self.fd < 0:
            return
        for _ in range(4096):
            before = self._shared.connections
            if self.is_paused:
                break
            self.on_events(poller.READABLE)
            if self._shared.connections == before:
                break
        self._gate.forget(self)
        if self._retry is not None:
            self._retry.cancel()
        self._pause()
        self._end()
        self.fd = -1
        self.sock.close()

    def _on_empty(self) -> None:  # noqa: B027  # most have nothing to do then
        """The queue is empty: every client that came before has been accepted."""

    @abc.abstractmethod
    def _end(self) -> None:
        """Settle what has to be before the socket is closed."""

    def _publish(self, feed: events.Feed, accepted: Sequence[connection.Connection]) -> None:
        if feed.is_full:
            feed.drop(len(accepted))
            return
        for conn in accepted:
            feed.publish(
                events.ConnectionAccepted(conn.accepted_at, conn.target.text, conn.source[:2])
            )

    def _is_loop(
        self, client: syscalls.StreamSocket, source: syscalls.Name, target: connection.Target
    ) -> bool:
        """Whether this process is its own client; if so, that connection is cut."""
        is_own = self._own_dials.cut(client, source[:2], target.text)
        if is_own:
            syscalls.reset_on_close(client)
            client.close()
        return is_own

    def _pause(self) -> None:
        if not self.is_paused:
            self.is_paused = True
            self._shared.poller.unregister(self.fd)

    def _on_accept_error(self, code: int) -> bool:
        """Count a failed accept(2). True when the listener has to pause.

        Everything but exhaustion belongs to the client that was being accepted
        (ECONNABORTED, EPROTO...): the next one is tried.
        """
        self._shared.counters.accept_errors += 1
        if code not in _EXHAUSTED:
            return False
        if not self._is_exhausted:
            self._is_exhausted = True
            self._shared.counters.accept_pauses += 1
        self._gate.troubles.note(
            episodes.EXHAUSTED,
            details=lambda: {"service": self.text, "reason": errno.errorcode[code]},
        )
        self._pause()
        self._retry_later()
        return True

    def _retry_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._retry = loop.call_later(_RETRY_SECONDS, self.resume_accepting)


class Listener(Acceptor):
    """The listening socket of one frontend. Owns it until `close`."""

    __slots__ = ("_door", "_target")

    def __init__(
        self,
        sock: syscalls.StreamSocket,
        target: connection.Target,
        shared: sharing.Shared,
        dialer: Starter,
        gate: Gate,
    ) -> None:
        self._target = target
        self._door: door.Door | None = None
        super().__init__(sock, shared, dialer, gate)

    @property
    def text(self) -> str:
        """The service port."""
        return self._target.text

    def on_events(self, mask: int) -> None:  # noqa: ARG002  # a listener has one sort of event
        """Clients wait in the queue: accept some and start their dials."""
        shared = self._shared
        target = self._target
        accept = self._accept
        sock = self.sock
        own_ports = self._own_dials.ports
        admitted = self._gate.admitted
        accepted = []
        for _ in range(ACCEPT_BUDGET):
            if shared.connections >= admitted:
                self._pause()
                self._gate.wait(self)
                break
            try:
                client, fd, source = accept(sock)
            except BlockingIOError:
                break
            except OSError as error:
                if self._on_accept_error(error.errno or 0):
                    break
                continue
            if source[1] in own_ports and self._is_loop(client, source, target):
                continue
            accepted.append(connection.Connection(shared, target, client, fd, source))
        if accepted and self._is_exhausted:
            self._is_exhausted = False
        if shared.feed is not None:
            self._publish(shared.feed, accepted)
        self._dialer.start(accepted)

    def take(
        self, client: syscalls.StreamSocket, fd: int, source: syscalls.Name
    ) -> connection.Connection | None:
        """See `Acceptor`. `on_events` does the same without a call."""
        target = self._target
        if source[1] in self._own_dials.ports and self._is_loop(client, source, target):
            return None
        return connection.Connection(self._shared, target, client, fd, source)

    def admit(self, admitted: forwarding.Admission) -> None:
        """Drop what `admitted` leaves out, from now on. Raises OSError as `door.Door.admit`."""
        if self._door is None:
            self._door = door.Door(self.sock, self.address)
        self._door.admit(admitted)

    def _end(self) -> None:
        """Count what the kernel dropped, and close the door."""
        self._target.counters.listen_drops += self.drops
        if self._door is not None:
            self._door.close()
