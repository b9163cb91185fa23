"""Backends and load generators. Run in child processes: `python -m benchmarks.load ROLE ...`.

They are made to cost less than any proxy between them, so that the proxy is what is measured
(without a proxy they move several times what the fastest one relays):

- bulk source: send(2) of 256 KiB that stay in the processor's cache, one thread per stream, as an
  application sends. Not sendfile(2): it is cheaper here, but hands the proxy page-sized fragments
  that cost a copying proxy 15 to 40 % more, which would flatter one that splices;
- bulk sink: recv(2) with MSG_TRUNC, which discards in the kernel; no copy on the way in;
- echo and ping: blocking sockets, one message in flight.

Each role prints one JSON object on stdout when it is done (`hold`: when its connections stand).
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks import figures
from benchmarks.processes import Address

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
LAST_REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"

_CHUNK = 1 << 20
_SOURCE_BYTES = 256 << 10
_BATCH = 64  # connections `hold` opens at once: below every backlog


def _serve(address: Address, handle: Callable[[socket.socket], None]) -> None:
    """Accept for ever; one daemon thread per connection."""
    with socket.create_server(address, backlog=1024) as listener:
        while True:
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_guarded, args=(handle, client), daemon=True).start()


def _guarded(handle: Callable[[socket.socket], None], client: socket.socket) -> None:
    with client:
        try:
            handle(client)
        except OSError:
            return  # the peer went away; the other end of the stream reports it


def _source(client: socket.socket) -> None:
    """Read a decimal line N, send N bytes and the end of the stream."""
    line = b""
    while not line.endswith(b"\n"):
        piece = client.recv(64)
        if not piece:
            return
        line += piece
    left = int(line)
    content = memoryview(os.urandom(_SOURCE_BYTES))
    while left:
        left -= client.send(content[:left])


def _echo(client: socket.socket) -> None:
    while data := client.recv(65536):
        client.sendall(data)


def serve(source: Address, echo: Address) -> None:
    """The bulk source and the echo, until killed."""
    threading.Thread(target=_serve, args=(echo, _echo), daemon=True).start()
    _serve(source, _source)


def sink(proxy: Address, total: int, streams: int) -> dict[str, float]:
    """Ask for `total` bytes over `streams` connections; the seconds until the last one ended."""
    share = total // streams
    received = [0] * streams

    def drain(index: int) -> None:
        buffer = bytearray(_CHUNK)
        # An error leaves the count short, which is reported below.
        with (
            contextlib.suppress(OSError),
            socket.create_connection(proxy, timeout=10) as server,
        ):
            server.settimeout(None)
            server.sendall(b"%d\n" % share)
            while count := server.recv_into(buffer, _CHUNK, socket.MSG_TRUNC):
                received[index] += count

    threads = [threading.Thread(target=drain, args=(i,)) for i in range(streams)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if received != [share] * streams:
        raise OSError(f"{sum(received)} of {share * streams} bytes arrived")
    return {"seconds": seconds, "bytes": float(share * streams)}


def ping(proxy: Address, seconds: float, size: int) -> dict[str, float]:
    """Send `size` bytes and await them back, again and again; percentiles in µs."""
    message = os.urandom(size)
    times: list[int] = []
    with socket.create_connection(proxy, timeout=10) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter_ns()
            server.sendall(message)
            if server.recv(size, socket.MSG_WAITALL) != message:
                raise OSError("the echo differs from what was sent")
            times.append(time.perf_counter_ns() - began)
    warm = times[len(times) // 10 :]
    return {
        "p50_us": figures.percentile(warm, 50) / 1000,
        "p99_us": figures.percentile(warm, 99) / 1000,
        "exchanges": float(len(warm)),
    }


async def _request(proxy: Address, request: bytes) -> socket.socket:
    """A new connection on which `request` has been answered (at least in part)."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    client.setblocking(False)
    try:
        await loop.sock_connect(client, proxy)
        await loop.sock_sendall(client, request)
        answer = await loop.sock_recv(client, 4096)
    except BaseException:
        client.close()
        raise
    if not answer:
        client.close()
        raise ConnectionError("closed without an answer")
    return client


async def connections(proxy: Address, count: int) -> list[socket.socket]:
    """`count` connections, each of which has had one request answered. The caller closes them."""
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            batch = min(_BATCH, count - len(held))
            opened = [_request(proxy, REQUEST) for _ in range(batch)]
            async with asyncio.timeout(20):
                held += await asyncio.gather(*opened)
    except BaseException:
        for client in held:
            client.close()
        raise
    return held


def hold(proxy: Address, count: int) -> None:
    """Open `count` connections, say so, and keep them idle until stdin ends."""
    held = asyncio.run(connections(proxy, count))
    print(json.dumps({"open": len(held)}), flush=True)
    sys.stdin.buffer.read()
    for client in held:
        client.close()


async def open_loop(
    proxy: Address, begin: float, rate: float, seconds: float, patience: float
) -> dict[str, Any]:
    """New connections at a fixed rate, whatever became of those before.

    The first starts at `begin` (CLOCK_MONOTONIC). For each: ms from connect(2) to the first byte
    of the answer, or a failure after `patience` s. `late_ms` is how late the generator itself was.
    """
    times: list[float] = []
    late: list[float] = []
    failures: list[str] = []

    async def one(due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        began = time.monotonic()
        late.append((began - due) * 1000)
        try:
            async with asyncio.timeout(patience):
                client = await _request(proxy, LAST_REQUEST)
        except OSError as error:
            failures.append(type(error).__name__)
            return
        times.append((time.monotonic() - began) * 1000)
        client.close()

    async with asyncio.TaskGroup() as group:
        for number in range(round(rate * seconds)):
            group.create_task(one(begin + number / rate))
    return {"times_ms": times, "failures": failures, "late_ms": max(late)}


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.load")
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("serve")
    server.add_argument("--source", type=_address, required=True)
    server.add_argument("--echo", type=_address, required=True)
    for role in ("sink", "ping", "hold", "open-loop"):
        client = roles.add_parser(role)
        client.add_argument("proxy", type=_address)
        client.add_argument("--bytes", type=int, default=1 << 30)
        client.add_argument("--streams", type=int, default=1)
        client.add_argument("--seconds", type=float, default=1.0)
        client.add_argument("--size", type=int, default=64)
        client.add_argument("--connections", type=int, default=100)
        client.add_argument("--begin", type=float, default=0.0)
        client.add_argument("--rate", type=float, default=50.0)
        client.add_argument("--patience", type=float, default=10.0)
    return parser.parse_args(argv)


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return Address(host, int(port))


def main(argv: list[str]) -> int:
    """Play the role; 1 and one sentence on stderr when the connection failed."""
    args = _parse(argv)
    try:
        if args.role == "serve":
            serve(args.source, args.echo)
        elif args.role == "hold":
            hold(args.proxy, args.connections)
        else:
            print(json.dumps(_generate(args)))
    except OSError as error:
        print(f"{args.role}: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _generate(args: argparse.Namespace) -> dict[str, Any]:
    if args.role == "sink":
        return sink(args.proxy, args.bytes, args.streams)
    if args.role == "ping":
        return ping(args.proxy, args.seconds, args.size)
    load = open_loop(args.proxy, args.begin, args.rate, args.seconds, args.patience)
    return asyncio.run(load)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
