"""The open-loop generator: its rate does not depend on what becomes of its connections."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from benchmarks import load, processes
from benchmarks.processes import Address


@contextlib.contextmanager
def _server(answer: bytes) -> Iterator[Address]:
    """Takes connections one by one, sends `answer`, closes; ends with its listener."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        client.recv(4096)
                        if answer:
                            client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield Address(*listener.getsockname())
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


async def test_every_answered_connection_has_a_time() -> None:
    with _server(b"HTTP/1.1 200 OK\r\n\r\n") as address:
        result = await load.open_loop(address, time.monotonic(), 500, 0.04, 5)
    assert len(result["times_ms"]) == 20
    assert result["failures"] == []


async def test_a_connection_closed_without_an_answer_is_a_failure() -> None:
    with _server(b"") as address:
        result = await load.open_loop(address, time.monotonic(), 500, 0.01, 5)
    assert result["times_ms"] == []
    assert len(result["failures"]) == 5


async def test_a_refused_connection_is_a_failure() -> None:
    nobody = processes.free_address()
    result = await load.open_loop(nobody, time.monotonic(), 500, 0.01, 5)
    assert result["failures"] == ["ConnectionRefusedError"] * 5
