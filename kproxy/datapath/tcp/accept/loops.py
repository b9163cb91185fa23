"""Find connections that this process makes to itself, and would relay round and round.

Two Services that name each other's address as their endpoint turn one client into as many
connections as there are descriptors. The control plane leaves kproxy's own addresses out of the
endpoints; this catches what it cannot see, such as a NAT rule that leads back to a frontend.

A look-up of every dial's source port would cost each connection a system call. One dial in
`_EVERY` is noted instead: a loop dials without end, so it is caught after a few rounds. A source
port alone proves nothing, for other processes use the same ones towards other addresses; both ends
of the two sockets must be the same.
"""

import _socket
from collections.abc import Iterable
from typing import Protocol

from kproxy.datapath import episodes, poller, syscalls
from kproxy.datapath.tcp import halfclose
from kproxy.model import addresses

_EVERY = 8
_KEPT = 64
_SO_ORIGINAL_DST = 80


class Named(Protocol):
    """What a connection was accepted for: a service port, and its name as logs show it."""

    text: str


class Dialling(Protocol):
    """A connection that dials. `connection.Connection` satisfies it."""

    @property
    def is_open(self) -> bool:
        """False once the connection has ended."""

    @property
    def target(self) -> Named:
        """Where its dials are directed."""

    def abort(self, reason: halfclose.Reason, /) -> None:
        """Reset both sides."""


_Dialled = tuple[Dialling, syscalls.StreamSocket, addresses.SocketAddress]
_Noted = tuple[syscalls.StreamSocket, str, addresses.SocketAddress]
"""A dial's socket, the service port it was made for, and where to. No connection: that may end."""


class OwnDials:
    """Some of the latest dials of one data path, by their source port.

    `ports` is empty or small; it is only to be looked into. Owns no socket.
    """

    def __init__(self, event_poller: poller.Poller, troubles: episodes.Episodes) -> None:
        self.ports: dict[int, _Noted] = {}
        self.countdown = 0
        """How many more batches of dials are passed over; the dialler counts it down."""
        self._poller = event_poller
        self._troubles = troubles

    def note(self, dialled: Iterable[_Dialled]) -> None:
        """Remember these dials, which have just begun."""
        self.countdown = _EVERY
        for conn, sock, backend in dialled:
            if conn.is_open:
                self.ports[sock.getsockname()[1]] = sock, conn.target.text, backend
        while len(self.ports) > _KEPT:
            del self.ports[next(iter(self.ports))]

    def cut(self, accepted: syscalls.StreamSocket, source: tuple[str, int], name: str) -> bool:
        """Whether a client from `source`, whose port is in `ports`, is this process itself.

        If so, the connection that dialled is reset, and with it all that it came through; the
        caller closes `accepted`. `name` is the service port that the client came to.
        """
        sock, service, backend = self.ports[source[1]]
        try:
            is_own = sock.getsockname()[:2] == source and (
                sock.getpeername()[:2] in (accepted.getsockname()[:2], _original(accepted))
            )
        except OSError:  # that dial is over
            is_own = False
        if not is_own:
            return False
        del self.ports[source[1]]
        self._troubles.note(
            episodes.LOOP, service, lambda: {"endpoint": str(backend), "leads_to": name}
        )
        for handler in self._poller.handlers():
            if getattr(handler, "sock", None) is sock:  # a leg of a connection, or a waiting dial
                conn: Dialling | None = getattr(handler, "conn", None)
                if conn is not None:
                    conn.abort(halfclose.NO_ENDPOINTS)
                break
        return True


def _original(accepted: syscalls.StreamSocket) -> tuple[str, int] | None:
    """Where a connection went before NAT changed it; None without NAT."""
    try:
        found = accepted.getsockopt(_socket.IPPROTO_IP, _SO_ORIGINAL_DST, 16)
    except OSError:
        return None
    return _socket.inet_ntoa(found[4:8]), int.from_bytes(found[2:4], "big")
