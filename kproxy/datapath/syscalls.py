"""The kernel as the data path sees it: every system call that can fail goes through here.

`Kernel` is the real thing. Tests put a seeded faulty one in its place (short reads and writes,
spurious EAGAIN, EMFILE, ECONNABORTED...), wrapping the sockets it hands out; so the hot path
calls socket methods directly and pays nothing for the seam.
"""

import _socket
import contextlib
import ctypes
import fcntl
import os
import resource
import select
import struct
import sys
import termios
from typing import Any, Protocol, overload

from kproxy.datapath import admission
from kproxy.model import addresses, forwarding

DATAGRAM = _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
STREAM = _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
_LINGER_ZERO = struct.pack("ii", 1, 0)
_NO_LINGER = struct.pack("ii", 0, 0)
SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_F_SETPIPE_SZ = 1031
_F_GETPIPE_SZ = 1032
_SO_MEMINFO = 55
_SK_MEMINFO_DROPS = 8
"""Where include/uapi/linux/sock_diag.h has the drops among SO_MEMINFO's 32-bit numbers."""
_DATAGRAM_BUFFER = 1 << 20
"""Bytes that may wait at a front socket; the kernel grants no more than net.core.rmem_max."""
IPV6_FREEBIND = 78
"""A socket option: bind an address that is only routed to this host (include/uapi/linux/in6.h)."""
_MTU_DISCOVER = {
    _socket.AF_INET: (_socket.IPPROTO_IP, 10),
    _socket.AF_INET6: (_socket.IPPROTO_IPV6, 23),
}
"""The level and number of IP_MTU_DISCOVER and of IPV6_MTU_DISCOVER."""
_PMTUDISC_DONT = 0
_SOL_SOCKET = _socket.SOL_SOCKET
_IPPROTO_TCP = _socket.IPPROTO_TCP

_UNSPECIFIED = bytes(16)
"""A socket address of the family AF_UNSPEC, which Python's sockets have no form for."""
_connect = ctypes.PyDLL(None).connect
"""connect(2) of the C library. Keeps the interpreter's lock: it is for calls that do not wait."""


Name = tuple[str, int]
"""The address and port of a socket's end, as the kernel gives them: of IPv6 two more numbers."""


class StreamSocket(Protocol):
    """The methods of a TCP socket that the data path uses. Its holder closes it."""

    @property
    def family(self) -> int: ...
    def fileno(self) -> int: ...
    def recv_into(self, buffer: bytearray | memoryview, /) -> int: ...
    def send(self, data: bytes | memoryview, flags: int = ..., /) -> int: ...
    def connect_ex(self, address: tuple[str, int], /) -> int: ...
    def shutdown(self, how: int, /) -> None: ...
    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...
    @overload
    def getsockopt(self, level: int, option: int, /) -> int: ...
    @overload
    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...
    def getsockname(self) -> tuple[str, int]: ...
    def getpeername(self) -> tuple[str, int]: ...
    def close(self) -> None: ...


class DatagramSocket(Protocol):
    """The methods of a UDP socket that the data path uses. Its holder closes it."""

    def fileno(self) -> int: ...
    def recv_into(self, buffer: bytearray | memoryview, /) -> int: ...
    def recvfrom_into(self, buffer: bytearray | memoryview, /) -> tuple[int, Any]: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
    def sendto(self, data: bytes | memoryview, address: Any, /) -> int: ...
    def connect(self, address: tuple[str, int], /) -> None: ...
    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...
    @overload
    def getsockopt(self, level: int, option: int, /) -> int: ...
    @overload
    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...
    def getsockname(self) -> tuple[str, int]: ...
    def close(self) -> None: ...


def arm_keepalive(sock: StreamSocket, idle: int) -> None:
    """Notice an idle peer that vanished within twice `idle` seconds.

    After `idle` seconds of silence three probes follow, a third of that apart. Keepalive does
    not act while data is unacknowledged: the sweep does then. TCP_USER_TIMEOUT is not used: it
    counts answered window probes too, and resets a live peer that has only stopped reading.
    """
    sock.setsockopt(_SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
    sock.setsockopt(_IPPROTO_TCP, _socket.TCP_KEEPIDLE, idle)
    sock.setsockopt(_IPPROTO_TCP, _socket.TCP_KEEPINTVL, max(idle // 3, 1))
    sock.setsockopt(_IPPROTO_TCP, _socket.TCP_KEEPCNT, 3)


def reset_on_close(sock: StreamSocket) -> None:
    """Make the coming close a reset: the peer is not to take it for a clean end."""
    sock.setsockopt(_SOL_SOCKET, _socket.SO_LINGER, _LINGER_ZERO)


def send_at_once(sock: StreamSocket) -> None:
    """Switch Nagle's algorithm off: small segments do not wait for an acknowledgement."""
    sock.setsockopt(_IPPROTO_TCP, _socket.TCP_NODELAY, 1)


def join_ack_and_data(sock: StreamSocket) -> None:
    """Before a connect that data will follow at once: let the handshake's last ACK wait for it.

    One packet less, and the server's accept and first read are one wake-up instead of two
    (HAProxy's `tcp-smart-connect`). Only for a client that has spoken already: a server that
    speaks first would otherwise learn of its client up to 200 ms late.
    """
    sock.setsockopt(_IPPROTO_TCP, _socket.TCP_QUICKACK, 0)


def send_unpaced(sock: StreamSocket, address: str) -> None:
    """For a connection that never leaves this host: the simplest congestion control there is.

    Nothing is done unless `address`, one of its ends, is of loopback. Where BBR is the default it
    paces what is sent by a model of a network that is not there: a stream over loopback reached
    1.2 GB/s with it, and 1.8 with Reno. Every kernel has Reno, and any process may choose it; if an
    administrator forbids that, the default stays.
    """
    found = addresses.parse(address)
    if found is not None and found.use is addresses.Use.LOOPBACK:
        with contextlib.suppress(OSError):
            sock.setsockopt(_IPPROTO_TCP, _socket.TCP_CONGESTION, b"reno")


def listen_drops(sock: StreamSocket | DatagramSocket) -> int:
    """How many connection requests or datagrams a socket has dropped, mostly for a full queue.

    A client of TCP retries after a second, then ever more rarely (RFC 6298). 0 if the kernel does
    not count them.
    """
    with contextlib.suppress(OSError):
        counted = sock.getsockopt(_SOL_SOCKET, _SO_MEMINFO, 4 * (_SK_MEMINFO_DROPS + 1))
        return int.from_bytes(counted[4 * _SK_MEMINFO_DROPS :], sys.byteorder)
    return 0


def close_in_order(sock: StreamSocket) -> None:
    """Take `reset_on_close` back: the coming close sends what is queued, and then FIN."""
    sock.setsockopt(_SOL_SOCKET, _socket.SO_LINGER, _NO_LINGER)


def _fragment_freely(sock: DatagramSocket, family: int) -> None:
    """Let a datagram that is larger than the path's MTU be sent in fragments.

    By default the kernel learns the path's MTU at the cost of a datagram that does not arrive.
    """
    sock.setsockopt(*_MTU_DISCOVER[family], _PMTUDISC_DONT)


def _prepare_accepted(listener: _socket.socket, keepalive_idle: int) -> None:
    """Set what accepted sockets inherit from `listener`."""
    listener.setsockopt(_SOL_SOCKET, _socket.SO_OOBINLINE, 1)
    send_at_once(listener)
    arm_keepalive(listener, keepalive_idle)


class Kernel:
    """The real system calls.

    Sockets are `_socket.socket`, the C type under `socket.socket`: its Python subclass costs a
    microsecond per connection and adds nothing a data path uses.
    """

    def listen(
        self,
        address: addresses.SocketAddress,
        backlog: int,
        keepalive_idle: int,
        *,
        is_deaf: bool = False,
    ) -> StreamSocket:
        """A bound, listening, non-blocking socket. The caller owns it.

        One that `is_deaf` drops all clients, until a `door.Door` is asked to admit some.

        Every option that accepted sockets inherit is set here, once, instead of on each of them:
        no Nagle delay, urgent data in line, keepalive, and on loopback no pacing. An IPv6 address
        need only be routed to this host.
        """
        family = _socket.AF_INET6 if ":" in address.address else _socket.AF_INET
        sock = _socket.socket(family, STREAM, 0)
        try:
            if family == _socket.AF_INET6:
                sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
                sock.setsockopt(_socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            sock.setsockopt(_SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            _prepare_accepted(sock, keepalive_idle)
            send_unpaced(sock, address.address)
            if is_deaf:
                admission.set_deaf(sock, addresses.family(address.address), is_deaf=True)
            sock.bind(address)
            sock.listen(backlog)
        except OSError:
            sock.close()
            raise
        return sock

    def adopt(self, descriptor: int, backlog: int, keepalive_idle: int) -> StreamSocket:
        """A non-blocking duplicate of a listening socket, with the options of `listen`.

        The caller owns it. Raises OSError.
        """
        sock = _socket.socket(fileno=_socket.dup(descriptor))
        try:
            sock.setblocking(False)  # noqa: FBT003  # the socket's own
            _prepare_accepted(sock, keepalive_idle)
            sock.listen(backlog)
        except OSError:
            sock.close()
            raise
        return sock

    def accept(self, listener: StreamSocket) -> tuple[StreamSocket, int, Name]:
        """Accept one connection: its non-blocking socket, owned by the caller, its descriptor,
        and the client's address and port."""
        fd, name = listener._accept()  # type: ignore[attr-defined]
        try:
            os.set_blocking(fd, False)
            # The object has to know its family: getsockname() has room for an address of that.
            return _socket.socket(listener.family, STREAM, 0, fd), fd, name
        except OSError:
            os.close(fd)
            raise

    def stream_socket(self, backend: addresses.SocketAddress) -> StreamSocket:
        """An unconnected non-blocking socket of the backend's family, owned by the caller."""
        family = _socket.AF_INET6 if ":" in backend.address else _socket.AF_INET
        return _socket.socket(family, STREAM, 0)

    def datagram_front(
        self, address: addresses.SocketAddress, admitted: forwarding.Admission = None
    ) -> DatagramSocket:
        """A non-blocking UDP socket that is bound to `address`. The caller owns it.

        An IPv6 address need only be routed to this host.
        """
        family = _socket.AF_INET6 if ":" in address.address else _socket.AF_INET
        sock = _socket.socket(family, DATAGRAM, 0)
        try:
            if family == _socket.AF_INET6:
                sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
                sock.setsockopt(_socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            sock.setsockopt(_SOL_SOCKET, _socket.SO_RCVBUF, _DATAGRAM_BUFFER)
            _fragment_freely(sock, family)
            if admitted is not None:
                admission.admit(sock, addresses.family(address.address), admitted)
            sock.bind(address)
        except OSError:
            sock.close()
            raise
        return sock

    def datagram_socket(self, backend: addresses.SocketAddress) -> DatagramSocket:
        """An unconnected non-blocking UDP socket for `backend`, owned by the caller."""
        address = backend.address
        family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
        sock = _socket.socket(family, DATAGRAM, 0)
        _fragment_freely(sock, family)
        return sock

    def disconnect(self, fd: int) -> bool:
        """Make a connected UDP socket give up its peer and its own address and port.

        False if the kernel refuses. What has come into the socket stays there.
        """
        return bool(_connect(fd, _UNSPECIFIED, len(_UNSPECIFIED)) == 0)

    def epoll(self) -> select.epoll:
        """A new epoll instance, owned by the caller."""
        return select.epoll()

    def pipe(self, size: int) -> tuple[int, int, int]:
        """A non-blocking pipe: read end, write end, and the capacity the kernel granted.

        An unprivileged user past `pipe-user-pages-soft` gets EPERM from F_SETPIPE_SZ; the pipe
        then keeps the size it has, which is smaller and as correct.
        """
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            size = fcntl.fcntl(write_end, _F_SETPIPE_SZ, size)
        except OSError:
            size = fcntl.fcntl(write_end, _F_GETPIPE_SZ)
        return read_end, write_end, size

    def splice(self, source: int, destination: int, count: int) -> int:
        """Move up to `count` bytes between a socket and a pipe; 0 may be end of stream.

        SPLICE_F_MORE is never passed: it corks, and was seen as a second of latency.
        """
        return os.splice(source, destination, count, flags=SPLICE_FLAGS)

    def read_pipe(self, fd: int, count: int) -> bytes:
        """Take up to `count` bytes out of a pipe that holds some."""
        return os.read(fd, count)

    def close_fd(self, fd: int) -> None:
        os.close(fd)

    def unread(self, fd: int) -> int:
        """Bytes waiting to be read from a socket (FIONREAD)."""
        return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)

    def unsent(self, fd: int) -> int:
        """Bytes written to a socket and not yet acknowledged by its peer (SIOCOUTQ)."""
        return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def unanswered_for(sock: StreamSocket) -> float:
    """Seconds for which a peer has left retransmissions or window probes unanswered; 0 if none.

    One alone proves nothing: it may just have been sent. From TCP_INFO: `tcpi_retransmits`,
    `tcpi_probes` and `tcpi_last_ack_recv`.
    """
    info = sock.getsockopt(_IPPROTO_TCP, _socket.TCP_INFO, 60)
    if max(info[2], info[3]) < 2:
        return 0.0
    return int.from_bytes(info[56:60], sys.byteorder) / 1000


def silent_for(sock: StreamSocket) -> int:
    """Milliseconds since a peer last sent data, or since it connected (`tcpi_last_data_recv`)."""
    info = sock.getsockopt(_IPPROTO_TCP, _socket.TCP_INFO, 56)
    return int.from_bytes(info[52:56], sys.byteorder)


def is_local(address: str) -> bool:
    """Whether an IP address is one of this host's. Sends nothing.

    The kernel answers by the source address that it would use: towards an address of the host
    itself that is this same address.
    """
    found = addresses.parse(address)
    if found is None or found.use is addresses.Use.LOOPBACK:
        return found is not None
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    with contextlib.suppress(OSError):
        probe = _socket.socket(family, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC, 0)
        try:
            probe.connect((address, 1))
            return bool(probe.getsockname()[0] == address)
        finally:
            probe.close()
    return False


def open_files_limit() -> int:
    """The soft RLIMIT_NOFILE of this process."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
