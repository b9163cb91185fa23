"""Many frontends on one listening socket.

A portal that can direct the clients of many addresses to one socket makes that socket. The address
of an accepted socket is the one that its client connected to, and says which frontend was meant.
That costs each client one system call, which frontends with a listener of their own are spared.
"""

import _socket
from collections.abc import Callable
from typing import TypeAlias

from kproxy.datapath import syscalls
from kproxy.datapath.tcp import connection, sharing
from kproxy.datapath.tcp.accept import listener
from kproxy.model import addresses, forwarding

Maker: TypeAlias = Callable[[], connection.Target]
"""Makes the target of a frontend when its first client has come: most have none for long."""


class SharedListener(listener.Acceptor):
    """The listening socket of all frontends of a family. Owns it until `close`."""

    __slots__ = ("_leaving", "_targets", "_text")

    def __init__(
        self,
        sock: syscalls.StreamSocket,
        name: str,
        shared: sharing.Shared,
        dialer: listener.Starter,
        gate: listener.Gate,
    ) -> None:
        self._text = f"all that share the listener {name}"
        self._targets: dict[tuple[str, int], connection.Target | Maker] = {}
        self._leaving: dict[tuple[str, int], None] = {}
        super().__init__(sock, shared, dialer, gate)

    @property
    def text(self) -> str:
        """A name for the whole socket, which serves many service ports."""
        return self._text

    def open(self, address: addresses.SocketAddress, target: connection.Target | Maker) -> "Place":
        """Relay the clients of `address` to backends of `target`'s picker."""
        key = _as_the_kernel_says(address)
        self._leaving.pop(key, None)
        self._targets[key] = target
        return Place(self, address)

    def shut(self, address: addresses.SocketAddress) -> None:
        """The portal directs no more clients of `address` here.

        Those in the queue are served: nothing is forgotten before the queue has been empty.
        """
        key = _as_the_kernel_says(address)
        if key in self._targets:
            self._leaving[key] = None

    def on_events(self, mask: int) -> None:  # noqa: ARG002  # a listener has one sort of event
        """Clients wait in the queue: accept some and start their dials."""
        shared = self._shared
        accept = self._accept
        sock = self.sock
        admitted = self._gate.admitted
        accepted = []
        for _ in range(listener.ACCEPT_BUDGET):
            if shared.connections >= admitted:
                self._pause()
                self._gate.wait(self)
                break
            try:
                client, fd, source = accept(sock)
            except BlockingIOError:
                self._on_empty()
                break
            except OSError as error:
                if self._on_accept_error(error.errno or 0):
                    break
                continue
            conn = self.take(client, fd, source)
            if conn is not None:
                accepted.append(conn)
        if accepted and self._is_exhausted:
            self._is_exhausted = False
        if shared.feed is not None:
            self._publish(shared.feed, accepted)
        self._dialer.start(accepted)

    def take(
        self, client: syscalls.StreamSocket, fd: int, source: syscalls.Name
    ) -> connection.Connection | None:
        """See `listener.Acceptor`. A client whose frontend has gone is reset."""
        try:
            key = client.getsockname()[:2]
            target = self._targets[key]
        except (KeyError, OSError):  # OSError: it has hung up
            syscalls.reset_on_close(client)
            client.close()
            return None
        if not isinstance(target, connection.Target):
            target = self._targets[key] = target()
        if source[1] in self._own_dials.ports and self._is_loop(client, source, target):
            return None
        return connection.Connection(self._shared, target, client, fd, source)

    def _on_empty(self) -> None:
        """Forget the frontends that have been shut."""
        for key in self._leaving:
            del self._targets[key]
        self._leaving.clear()

    def _end(self) -> None:
        """Forget all frontends."""
        self._targets.clear()
        self._leaving.clear()


class Place:
    """One frontend at a shared listener. It owns nothing; end it with `close`."""

    __slots__ = ("_at", "address")

    def __init__(self, at: SharedListener, address: addresses.SocketAddress) -> None:
        self._at = at
        self.address = address

    @property
    def drops(self) -> int:
        """0: the kernel does not say whose clients a full queue has cost."""
        return 0

    def admit(self, admitted: forwarding.Admission) -> None:
        """Nothing is done: the portal drops what is not admitted before it gets here."""

    def close(self) -> None:
        """New clients go elsewhere."""
        self._at.shut(self.address)


def _as_the_kernel_says(address: addresses.SocketAddress) -> tuple[str, int]:
    """The text that getsockname(2) will give: of some addresses it has another one than Python."""
    if ":" not in address.address:
        return address
    packed = _socket.inet_pton(_socket.AF_INET6, address.address)
    return _socket.inet_ntop(_socket.AF_INET6, packed), address.port
