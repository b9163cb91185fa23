"""The sockets of flows towards backends, each used by one flow after another.

To make a socket, watch it and close it costs more CPU than the question and the answer of a short
flow. So the socket of a flow that has ended is disconnected, which gives its port up, and rests
until a new flow connects it. The kernel then chooses a port as for a new socket.

No datagram of the former flow may reach the new one's client, unless the kernel happens to choose
the same port, as it may for a new socket:

- once the socket is disconnected, the kernel finds no socket for an answer that comes late, and
  refuses it as if the socket were closed;
- an answer for which the kernel found the socket just before, on another CPU, is put into the
  socket within microseconds, and the socket rests for `REST_SECONDS`;
- what has come into a socket that rests is an event of it, since sockets of UDP are watched
  level-triggered, and is thrown away. A socket is used again only after all such events have
  been handled that were due when it had rested.
"""

import errno
import time
from collections import deque

from kproxy.datapath import poller, syscalls
from kproxy.datapath.tcp import dial_failures
from kproxy.model import addresses

REST_SECONDS = 0.001
"""How long a socket rests at least."""
_MOST_WAITING = 65536
"""More datagrams than any socket has room for."""


class BackendSocket:
    """A socket in the poller. Its flow handles its events; while it rests, it does so itself."""

    __slots__ = ("_buffer", "family", "fd", "receive", "rested_at", "send", "sock")

    def __init__(
        self, sock: syscalls.DatagramSocket, family: "deque[BackendSocket]", buffer: bytearray
    ) -> None:
        self.sock = sock
        self.family = family
        """Those that rest of its address family."""
        self.fd = sock.fileno()
        self.send = sock.send
        self.receive = sock.recv_into
        self.rested_at = 0.0
        """When it has rested long enough, by the monotonic clock."""
        self._buffer = buffer

    def on_events(self, mask: int) -> None:  # noqa: ARG002  # all is thrown away
        """Throw away what came for the flow that has ended: datagrams, and an ICMP error."""
        for _ in range(_MOST_WAITING):
            try:
                self.receive(self._buffer)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error, which the kernel tells once

    def on_bug(self) -> None:
        """Nothing is owned: the sockets that rest are those of `BackendSockets`."""


class BackendSockets:
    """Makes the backend sockets of one data path, and owns those that rest.

    `buffer` is for what is thrown away.
    """

    def __init__(
        self,
        kernel: syscalls.Kernel,
        event_poller: poller.Poller,
        buffer: bytearray,
        ephemeral_ports: range,
    ) -> None:
        self._kernel = kernel
        self._poller = event_poller
        self._buffer = buffer
        self._ephemeral_ports = ephemeral_ports
        self._limit = 0
        self._count = 0
        self._ipv4: deque[BackendSocket] = deque()
        self._ipv6: deque[BackendSocket] = deque()

    def connect(
        self, backend: addresses.SocketAddress, handler: poller.EventHandler
    ) -> BackendSocket:
        """A socket that is connected to `backend`, with `handler` for its events.

        The caller owns it, and gives it up by `release`. Raises OSError as socket(2), connect(2)
        and epoll_ctl(2) do.
        """
        family = self._ipv6 if ":" in backend.address else self._ipv4
        is_used = bool(family) and family[0].rested_at <= self._poller.settled_at
        if is_used:
            chosen = family.popleft()
            self._count -= 1
        else:
            chosen = BackendSocket(self._kernel.datagram_socket(backend), family, self._buffer)
        try:
            chosen.sock.connect(backend)
            if backend.port in self._ephemeral_ports and dial_failures.met_itself(
                chosen.sock, backend
            ):
                raise ConnectionRefusedError(errno.ECONNREFUSED, "the socket met itself")
            if is_used:
                self._poller.replace(chosen.fd, handler)
            else:
                self._poller.register(chosen.fd, handler, poller.READABLE)
        except OSError:
            self._poller.close_later(chosen.fd, chosen.sock)
            raise
        return chosen

    def release(self, given: BackendSocket) -> None:
        """The flow of a socket does not need it any more."""
        if self._count < self._limit and self._kernel.disconnect(given.fd):
            given.rested_at = time.monotonic() + REST_SECONDS
            given.family.append(given)
            self._count += 1
            self._poller.replace(given.fd, given)
        else:
            self._poller.close_later(given.fd, given.sock)

    def share(self, limit: int) -> None:
        """Let no more than `limit` sockets rest from now on; those beyond are closed."""
        self._limit = limit
        while self._count > limit:
            surplus = (self._ipv4 or self._ipv6).popleft()
            self._count -= 1
            self._poller.close_later(surplus.fd, surplus.sock)
