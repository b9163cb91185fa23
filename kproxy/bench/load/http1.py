"""As much HTTP/1.1 as a benchmark needs: requests without a body, answers of a fixed size."""

import socket

from kproxy.bench.lab import network

END = b"\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
GET_AND_CLOSE = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"


def answer(port: int, *, closes: bool = False) -> bytes:
    """A backend's answer: its port, in a body of fixed size."""
    header = "Connection: close\r\n" if closes else ""
    return f"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n{header}\r\n{port:05d}\n".encode()


def answer_size(received: bytes) -> int | None:
    """The size of the answer at the start of `received`; None if it is not known yet.

    Raises ValueError if it is no answer, or one without a size.
    """
    head, end, _ = received.partition(END)
    if not end:
        return None
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return len(head) + len(END) + int(value)
    raise ValueError("the answer has no Content-Length")


def backend_port(received: bytes) -> int:
    """The port of the backend that answered. Raises ValueError for any other answer."""
    return int(received.partition(END)[2])


def ask(target: network.Address, *, client: str = "", patience: float = 5.0) -> int:
    """One short connection (from the address `client`); which backend answered, by its port.

    Raises OSError when there is no answer within `patience` seconds, or none of ours.
    """
    with socket.socket() as connection:
        connection.settimeout(patience)
        if client:
            connection.bind((client, 0))
        connection.connect(target)
        connection.sendall(GET_AND_CLOSE)
        received = b""
        while data := connection.recv(4096):
            received += data
    try:
        return backend_port(received)
    except ValueError:
        raise ConnectionError("closed without an answer") from None
