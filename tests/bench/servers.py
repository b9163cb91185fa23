"""Plain servers that a generator is tried on: they know what they have done, and can stall."""

import contextlib
import math
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from kproxy.bench.lab import network
from kproxy.bench.load import http1


@dataclass
class Plain:
    """One thread per connection. `answered` counts requests.

    Before answer number `stall_at` it stalls for `stall_s`; infinite: until `released`.
    """

    address: network.Address
    answer: bytes
    stall_at: int = 0
    stall_s: float = 0.0
    answered: int = 0
    accepted: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    clients: list[socket.socket] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self.accepted += 1
                self.clients.append(client)
                threading.Thread(target=self._serve_one, args=(client,), daemon=True).start()

    def hang_up(self) -> None:
        """End every connection there is."""
        for client in self.clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self.clients.clear()

    def _serve_one(self, client: socket.socket) -> None:
        pending = b""
        with client, contextlib.suppress(OSError):
            while data := client.recv(4096):
                pending += data
                while http1.END in pending:
                    request, _, pending = pending.partition(http1.END)
                    if not self.answer:
                        return
                    with self.lock:  # a stall is everybody's
                        self.answered += 1
                        if self.answered == self.stall_at:
                            self.released.wait(None if math.isinf(self.stall_s) else self.stall_s)
                        client.sendall(self.answer)
                    if b"close" in request:
                        return


@contextlib.contextmanager
def plain(
    answer: bytes = http1.answer(80), stall_at: int = 0, stall_s: float = 0
) -> Iterator[Plain]:
    """A server on a free port; an empty `answer` means closing without one."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        server = Plain(network.Address(*listener.getsockname()), answer, stall_at, stall_s)
        thread = threading.Thread(target=server.serve, args=(listener,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
