"""Servers in pods, and what clients meet: in a namespace, over TCP and UDP, in both families."""

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Final

from kproxy.model.names import Protocol
from tests.e2e.rig import daemon, namespaces, sockets

PORT: Final = 8080
"""What pods listen on, over TCP and UDP."""

REFUSED: Final = "refused"
SILENCE: Final = "silence"

_WHO: Final = b"who are you?"
_PATIENCE: Final = 30.0
"""Seconds that an answer may take on a busy machine."""
_IMPATIENCE: Final = 0.6
"""Seconds after which a client that is dropped gives up: before the kernel sends again."""


class Pod:
    """A server that says its name and echoes what it is sent. Owns a thread; must be closed.

    Over TCP the name comes first, as a line. Over UDP it answers `_WHO`.
    """

    def __init__(self, namespace: namespaces.Namespace, name: str, port: int = PORT) -> None:
        self.name = name
        self._selector = selectors.DefaultSelector()
        self._near, self._far = socket.socketpair()
        self._selector.register(self._near, selectors.EVENT_READ, None)
        with namespace.inside():
            for family in (socket.AF_INET, socket.AF_INET6):
                for kind, act in (
                    (socket.SOCK_STREAM, self._accept),
                    (socket.SOCK_DGRAM, self._answer),
                ):
                    sock = socket.socket(family, kind)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family is socket.AF_INET6:
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    sock.bind(("", port))
                    if kind is socket.SOCK_STREAM:
                        sock.listen(512)
                    sock.setblocking(False)
                    self._selector.register(sock, selectors.EVENT_READ, act)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Stop answering: from now on connections are refused."""
        self._far.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    for each in list(self._selector.get_map().values()):
                        each.fileobj.close()  # type: ignore[union-attr]  # all are sockets
                    self._selector.close()
                    return
                with contextlib.suppress(OSError):
                    key.data(key.fileobj)

    def _accept(self, listener: socket.socket) -> None:
        sock, _ = listener.accept()
        try:
            sock.sendall(f"{self.name}\n".encode())
        except OSError:  # the client has gone already
            sock.close()
        else:
            self._selector.register(sock, selectors.EVENT_READ, self._echo)

    def _echo(self, sock: socket.socket) -> None:
        """Echo, of what is small enough for the socket's buffer, and end at the other's end."""
        read = b""
        try:
            if read := sock.recv(65536):
                sock.sendall(read)
        finally:
            if not read:
                self._selector.unregister(sock)
                sock.close()

    def _answer(self, sock: socket.socket) -> None:
        datagram, sender = sock.recvfrom(65536)
        sock.sendto(self.name.encode() if datagram == _WHO else datagram, sender)


@contextlib.contextmanager
def pods(network: namespaces.Network) -> Iterator[tuple[Pod, Pod]]:
    """A server in each pod of the network; their names are "pod-a" and "pod-b"."""
    with contextlib.ExitStack() as stack:
        made = []
        for name, namespace in (("pod-a", network.pod_a), ("pod-b", network.pod_b)):
            made.append(Pod(namespace, name))
            stack.callback(made[-1].close)
        yield made[0], made[1]


def connect(
    namespace: namespaces.Namespace,
    address: daemon.Address,
    protocol: Protocol = Protocol.TCP,
    *,
    source: str = "",
    patience: float = _PATIENCE,
) -> socket.socket:
    """A client's socket, connected. Raises OSError: TimeoutError after `patience` seconds.

    The caller closes it.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
    with namespace.inside():
        sock = socket.socket(family, kind)
    try:
        sock.settimeout(patience)
        if source:
            sock.bind((source, 0))
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def meet(
    namespace: namespaces.Namespace,
    address: daemon.Address,
    protocol: Protocol = Protocol.TCP,
    *,
    source: str = "",
    patience: float = _PATIENCE,
) -> str:
    """What a client meets: the name of the pod that answers, REFUSED or SILENCE."""
    try:
        made = connect(namespace, address, protocol, source=source, patience=patience)
        with contextlib.closing(made) as client:
            if protocol is Protocol.UDP:
                client.send(_WHO)
                return client.recv(1024).decode()
            client.shutdown(socket.SHUT_WR)
            return sockets.read_all(client).decode().strip()
    except ConnectionRefusedError:
        return REFUSED
    except TimeoutError:
        return SILENCE


def is_dropped(
    namespace: namespaces.Namespace,
    address: daemon.Address,
    protocol: Protocol = Protocol.TCP,
    *,
    source: str = "",
) -> bool:
    """Whether the client meets silence, within as long as a test can wait."""
    return meet(namespace, address, protocol, source=source, patience=_IMPATIENCE) == SILENCE


def met(
    namespace: namespaces.Namespace,
    address: daemon.Address,
    protocol: Protocol = Protocol.TCP,
    *,
    source: str = "",
    times: int = 8,
) -> set[str]:
    """What so many clients meet, one after the other."""
    return {meet(namespace, address, protocol, source=source) for _ in range(times)}


def wait_met(
    namespace: namespaces.Namespace,
    address: daemon.Address,
    protocol: Protocol,
    expected: set[str],
    *,
    source: str = "",
) -> None:
    """Return when as many clients as `met` makes meet just these."""

    def is_so() -> bool:
        with contextlib.suppress(OSError):
            return met(namespace, address, protocol, source=source) == expected
        return False

    daemon.wait_until(is_so, f"clients of {address} over {protocol} meet {sorted(expected)}")


def name(client: socket.socket) -> str:
    """Which pod a TCP client is connected to, to be read first of all.

    Raises ConnectionError if the connection ends.
    """
    read = b""
    while not read.endswith(b"\n"):
        some = client.recv(1)
        if not some:
            raise ConnectionError("the connection ended before the pod said its name")
        read += some
    return read.decode().strip()


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send this to a pod, and return what comes back: as many bytes, or one datagram."""
    sock.send(data)
    if sock.type is socket.SOCK_DGRAM:
        return sock.recv(65536)
    return sockets.read_exactly(sock, len(data))


def pings(namespace: namespaces.Namespace, address: str) -> bool:
    """Whether an echo request of ICMP is answered."""
    is_v6 = ":" in address
    family = socket.AF_INET6 if is_v6 else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if is_v6 else socket.IPPROTO_ICMP
    # Type 128 or 8, identifier and sequence 1. The kernel makes the checksum of ICMPv6.
    request = struct.pack("!BBHHH", 128, 0, 0, 1, 1)
    if not is_v6:
        request = struct.pack("!BBHHH", 8, 0, 0xFFFF - 0x0802, 1, 1)
    with namespace.inside():
        sock = socket.socket(family, socket.SOCK_RAW, protocol)
    with contextlib.closing(sock):
        sock.settimeout(_PATIENCE)
        sock.connect((address, 0))
        sock.send(request)
        with contextlib.suppress(TimeoutError):
            while packet := sock.recv(1024):
                kind = packet[0] if is_v6 else packet[(packet[0] & 15) * 4]
                if kind == (129 if is_v6 else 0):
                    return True
    return False
