"""Drop the clients that a listener does not admit, with a privilege or without.

A socket filter does it wherever the kernel takes one. Some kernels want CAP_NET_ADMIN for that at a
TCP socket, which a proxy without root does not have. There:

- to drop all, the listener wants a TTL that only packets of the link itself have (IP_MINTTL, as
  RFC 5082 has it): the kernel drops the others without an answer;
- to drop some, a second socket that drops all in this way joins the listener (SO_REUSEPORT), and a
  classic BPF program sends to it whatever is not admitted. For that no kernel wants a privilege.

A packet that comes with a TTL of 255 is not dropped in this way. Its client meets the second
socket's queue, which has room for one and is never read, or a listener without backends.
"""

import _socket
import errno

from kproxy.datapath import admission, syscalls
from kproxy.model import addresses, forwarding
from kproxy.system import socket_filters

_SO_ATTACH_REUSEPORT_CBPF = 51
_LISTENER, _HOLE = 0, 1
"""Places in the group of sockets that share an address: by age."""


class Door:
    """Admits clients to one listening socket. Owns a second socket, if there is one."""

    __slots__ = ("_address", "_family", "_hole", "_sock", "uses_filters")

    def __init__(
        self,
        sock: syscalls.StreamSocket,
        address: addresses.SocketAddress,
        *,
        uses_filters: bool = True,
    ) -> None:
        """Of the socket that listens on `address`, which stays the caller's."""
        self._sock = sock
        self._address = address
        self._family = addresses.family(address.address)
        self._hole: _socket.socket | None = None
        self.uses_filters = uses_filters
        """Whether socket filters are tried; false once the kernel has refused one."""

    def admit(self, admitted: forwarding.Admission) -> None:
        """Drop what `admitted` leaves out, from now on.

        Raises OSError: E2BIG when there are too many networks. No client is admitted then.
        """
        if self.uses_filters:
            try:
                admission.admit(self._sock, self._family, admitted)
                admission.set_deaf(self._sock, self._family, is_deaf=False)
            except OSError as error:
                if error.errno != errno.EPERM:
                    admission.set_deaf(self._sock, self._family, is_deaf=True)
                    raise
                self.uses_filters = False
            else:
                return
        self._admit_without_filters(admitted)

    def close(self) -> None:
        """Close the second socket."""
        if self._hole is not None:
            self._hole.close()
            self._hole = None

    def _admit_without_filters(self, admitted: forwarding.Admission) -> None:
        if admitted is not None:
            # Drop all clients until the program is attached.
            admission.set_deaf(self._sock, self._family, is_deaf=True)
        if not admitted:
            # The program that stays names a socket that has gone: the kernel takes the other one.
            self.close()
        else:
            program = admission.program_for(self._family, admitted, passed=_LISTENER, dropped=_HOLE)
            if self._hole is None:
                self._hole = self._joined()
            socket_filters.attach(self._sock, program, _SO_ATTACH_REUSEPORT_CBPF)
        if admitted != ():
            admission.set_deaf(self._sock, self._family, is_deaf=False)

    def _joined(self) -> _socket.socket:
        """A socket that shares the listener's address and drops all."""
        self._sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
        ipv6 = self._family is addresses.Family.IPV6
        hole = _socket.socket(_socket.AF_INET6 if ipv6 else _socket.AF_INET, syscalls.STREAM, 0)
        try:
            if ipv6:
                hole.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
                hole.setsockopt(_socket.IPPROTO_IPV6, syscalls.IPV6_FREEBIND, 1)
            hole.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            hole.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
            admission.set_deaf(hole, self._family, is_deaf=True)
            hole.bind(self._address)
            hole.listen(0)
        except OSError:
            hole.close()
            raise
        return hole
