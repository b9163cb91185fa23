"""Clients and backends in the test's own hands."""

import contextlib
import errno
import hashlib
import itertools
import select
import socket
import struct
import threading
from collections.abc import Iterator

from tests.e2e.rig import daemon

SECONDS = 30.0
"""No socket call of a test waits longer; a bound, not an expectation."""

_SILENCE_SECONDS = 0.5
"""After which a SYN that nothing answers is taken for one that is dropped."""


def is_open(address: daemon.Address) -> bool:
    """Whether a connection is accepted."""
    try:
        with contextlib.closing(connect(address)):
            return True
    except OSError:
        return False


def is_refused(address: daemon.Address) -> bool:
    """Whether a connection is refused in so many words: ECONNREFUSED, not a timeout."""
    try:
        with contextlib.closing(connect(address)):
            return False
    except ConnectionRefusedError:
        return True
    except (ConnectionResetError, TimeoutError):
        return False  # the kernel accepted it for a listener that was then closed; or it is dropped


def outcome(address: daemon.Address, source: str = "127.0.0.1") -> str:
    """What a client at `source` meets at an address on loopback: "reached", "refused" or "silence".

    On loopback a SYN is answered at once, and on a busy machine a moment later.
    """
    with socket.socket() as client:
        client.bind((source, 0))
        client.setblocking(False)
        code = client.connect_ex(address)
        if code == errno.EINPROGRESS:
            _, writable, _ = select.select([], [client], [], _SILENCE_SECONDS)
            code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if writable else -1
    named = {0: "reached", errno.ECONNREFUSED: "refused", -1: "silence"}
    return named.get(code) or errno.errorcode[code]


def connect(address: daemon.Address) -> socket.socket:
    """A client."""
    return socket.create_connection(address, timeout=SECONDS)


@contextlib.contextmanager
def datagrams(address: daemon.Address, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A UDP socket of a client, with a port of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(SECONDS)
        client.bind((source, 0))
        client.connect(address)
        yield client


@contextlib.contextmanager
def backend(address: str) -> Iterator[socket.socket]:
    """A listener on a free port of `address`, whose accept the test calls itself."""
    with contextlib.closing(socket.create_server((address, 0), backlog=512)) as listener:
        listener.settimeout(SECONDS)
        yield listener


def accept(listener: socket.socket) -> socket.socket:
    """The next connection that the proxy makes."""
    accepted, _ = listener.accept()
    accepted.settimeout(SECONDS)
    return accepted


@contextlib.contextmanager
def stream(frontend: daemon.Address, listener: socket.socket) -> Iterator["Stream"]:
    """A client that is connected through the proxy to `listener`, and proved to be."""
    with (
        contextlib.closing(connect(frontend)) as client,
        contextlib.closing(accept(listener)) as server,
    ):
        through = Stream(client, server)
        through.check()
        yield through


@contextlib.contextmanager
def reaching(frontend: daemon.Address, listener: socket.socket) -> Iterator["Stream"]:
    """A client that reaches `listener`, as soon as the proxy leads one there.

    Each client that tries says a number of its own. So one that arrives late, whose other end has
    given up, is not taken for a later one.
    """
    found: list[Stream] = []
    numbers = itertools.count()

    def is_there() -> bool:
        with contextlib.suppress(OSError):
            found.extend(_reach(frontend, listener, next(numbers)))
        return bool(found)

    daemon.wait_until(is_there, f"a client of {frontend} reaches {listener.getsockname()}")
    (through,) = found
    with contextlib.closing(through.client), contextlib.closing(through.server):
        through.check()
        yield through


def _reach(frontend: daemon.Address, listener: socket.socket, number: int) -> "list[Stream]":
    """The stream of one more client, if it arrives within a second. Raises OSError."""
    said = number.to_bytes(4, "big")
    with contextlib.ExitStack() as held:
        client = held.enter_context(contextlib.closing(connect(frontend)))
        client.sendall(said)
        while select.select([listener], [], [], 1.0)[0]:
            with contextlib.ExitStack() as arrived:
                server = arrived.enter_context(contextlib.closing(accept(listener)))
                if read_exactly(server, len(said)) == said:
                    arrived.pop_all()
                    held.pop_all()
                    return [Stream(client, server)]
    return []


class Stream:
    """Both ends of a connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server

    def check(self) -> None:
        """Bytes still pass, both ways."""
        self.client.sendall(b"ping")
        assert read_exactly(self.server, 4) == b"ping"
        self.server.sendall(b"pong")
        assert read_exactly(self.client, 4) == b"pong"


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """`size` bytes, or fewer at the end of the stream."""
    read = bytearray()
    while len(read) < size and (some := sock.recv(size - len(read))):
        read += some
    return bytes(read)


def read_all(sock: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    read = bytearray()
    while some := sock.recv(65536):
        read += some
    return bytes(read)


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Namer:
    """A backend that answers each connection with its name and ends it. Owns a thread."""

    def __init__(self, address: str, name: str) -> None:
        self._listener = socket.create_server((address, 0), backlog=512)
        found: daemon.Address = self._listener.getsockname()
        self.address = found
        self._name = name.encode()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with contextlib.suppress(OSError), contextlib.closing(sock):
                    sock.sendall(self._name)


@contextlib.contextmanager
def namers(*addressed: tuple[str, str]) -> Iterator[list[Namer]]:
    """Backends that answer with their names, from (address, name)."""
    with contextlib.ExitStack() as stack:
        made = []
        for address, name in addressed:
            made.append(Namer(address, name))
            stack.callback(made[-1].close)
        yield made


def ask(address: daemon.Address, seconds: float = SECONDS) -> str:
    """Who answers. Raises TimeoutError when nothing comes for so many seconds."""
    with contextlib.closing(connect(address)) as client:
        client.settimeout(seconds)
        return read_all(client).decode()


def sends(sock: socket.socket, blocks: int, size: int = 65536) -> "Sending":
    """Start sending numbered blocks from a thread of its own."""
    return Sending(sock, blocks, size)


class Sending:
    """A checksummed stream that is being sent; then the sending direction is shut."""

    def __init__(self, sock: socket.socket, blocks: int, size: int) -> None:
        self._sock = sock
        self._blocks = blocks
        self._size = size
        self._digest = hashlib.sha256()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        try:
            for number in range(self._blocks):
                block = number.to_bytes(8, "big") * (self._size // 8)
                self._digest.update(block)
                self._sock.sendall(block)
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._error = error

    def finish(self) -> str:
        """The checksum of all that was sent. Raises OSError if the sending failed."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """Wait for its end, which is known to be a failure."""
        self._thread.join()


def sha256(data: bytes) -> str:
    """The checksum of what was received."""
    return hashlib.sha256(data).hexdigest()
