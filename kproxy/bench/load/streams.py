"""Bulk streams: both ends. Threads with blocking sockets, which spend their time in the kernel.

- A source sends 256 KiB that stay in the processor's cache with send(2), as an application does.
  Not sendfile(2): it is cheaper here, but hands a proxy page-sized fragments that cost a copying
  one 15 to 40 % more, which would flatter one that splices.
- A sink reads with MSG_TRUNC, which discards in the kernel; no copy on the way in.

The client's first line is the order to the server: "down N", "up N" or "both N" bytes. It
confirms what it has received with one byte, and closes. Neither end half-closes, so a proxy that
cannot relay a half-close is measured too.
"""

import os
import socket
import threading
import time

from kproxy.bench.load import messages

_SOURCE_BYTES = 256 << 10
_SINK_BYTES = 1 << 20
_CONTENT = memoryview(os.urandom(_SOURCE_BYTES))
_RECEIVED = b"."
_SILENCE = 20.0  # seconds without a byte after which a stream has failed


def serve(listener: socket.socket) -> None:
    """Accept until the listener is closed; a thread for each connection."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve_one, args=(client,), daemon=True).start()


def _serve_one(client: socket.socket) -> None:
    with client:
        try:
            direction, size = _first_line(client).split()
            _move(client, int(size), sends=direction != b"up", receives=direction != b"down")
            if direction != b"down":
                client.sendall(_RECEIVED)
        except (OSError, ValueError):
            return  # the client counts the missing bytes


def _first_line(client: socket.socket) -> bytes:
    """Read byte by byte: what follows the line belongs to the stream."""
    line = b""
    while not line.endswith(b"\n"):
        piece = client.recv(1)
        if not piece:
            break
        line += piece
    return line


def run(plan: messages.Plan) -> messages.Outcome:
    """Move `plan.size` bytes each way over `plan.connections` streams; `done` counts bytes.

    If one stream fails, none of them counts.
    """
    share = plan.size // plan.connections
    failures: dict[str, int] = {}

    def transfer() -> None:
        try:
            with socket.create_connection(plan.target, timeout=plan.patience) as server:
                server.settimeout(_SILENCE)
                server.sendall(f"{plan.direction} {share}\n".encode())
                sends, receives = plan.direction != "down", plan.direction != "up"
                _move(server, share, sends=sends, receives=receives)
                if sends:
                    _await_receipt(server)
        except OSError as error:
            reason = type(error).__name__
            failures[reason] = failures.get(reason, 0) + 1

    threads = [threading.Thread(target=transfer) for _ in range(plan.connections)]
    began = time.perf_counter()
    cpu = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    moved = share * plan.connections * (2 if plan.direction == "both" else 1)
    return messages.Outcome(
        seconds=seconds,
        done=0 if failures else moved,
        failures=failures,
        busy=(time.process_time() - cpu) / seconds / min(len(threads), os.cpu_count() or 1),
    )


def _move(peer: socket.socket, size: int, *, sends: bool, receives: bool) -> None:
    """Send and receive `size` bytes, at once if both. Raises OSError when the peer gives up."""
    if not (sends and receives):
        (_send if sends else _receive)(peer, size)
        return
    sending = threading.Thread(target=_send_quietly, args=(peer, size), daemon=True)
    sending.start()
    _receive(peer, size)
    sending.join()


def _send(peer: socket.socket, size: int) -> None:
    left = size
    while left:
        left -= peer.send(_CONTENT[:left])


def _send_quietly(peer: socket.socket, size: int) -> None:
    try:
        _send(peer, size)
    except OSError:
        return  # the other end counts the missing bytes


def _receive(peer: socket.socket, size: int) -> None:
    buffer = bytearray(_SINK_BYTES)
    left = size
    while left:
        count = peer.recv_into(buffer, min(left, _SINK_BYTES), socket.MSG_TRUNC)
        if not count:
            raise ConnectionError(f"{left} bytes are missing")
        left -= count


def _await_receipt(peer: socket.socket) -> None:
    if peer.recv(1) != _RECEIVED:
        raise ConnectionError("the server has not received everything")
