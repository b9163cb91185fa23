"""A flood of questions leaves relays, which share its thread, their turn after a few answers."""

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator

import dns.message
import pytest

from kproxy.dns import tcp, udp
from tests.dns.rig import lab

NAME = "web.default.svc.cluster.local"
OBJECTS = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.21, ports: [{port: 80}]}
"""
QUERY = dns.message.make_query(NAME, "A").to_wire()
QUESTIONS = 10 * udp.AT_ONCE
PATIENCE = 20.0


def turns_of(is_done: Callable[[], bool]) -> "asyncio.Future[int]":
    """How often the running loop turns until that is so."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[int] = loop.create_future()

    def turn(count: int) -> None:
        if is_done():
            found.set_result(count)
        else:
            loop.call_soon(turn, count + 1)

    loop.call_soon(turn, 1)
    return found


@contextlib.contextmanager
def asking(host: str, place: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A server's socket, bound to `host`, with questions from a client at `place`; and that."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        for each in (server, client):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        server.bind((host, 0))
        client.connect((place, server.getsockname()[1]))
        client.setblocking(False)
        for _ in range(QUESTIONS):
            client.send(QUERY)
        yield server, client


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # a socket's other way
@pytest.mark.parametrize("keeps", [True, False])
async def test_datagrams(host: str, *, keeps: bool) -> None:
    names = lab.Lab(OBJECTS, keeps=keeps)
    with asking(host, "127.0.0.1") as (sock, client):
        server = udp.UdpServer(sock, names.answers, names.kept, lambda *_: None, lambda: True)
        answered = 0

        def is_done() -> bool:
            nonlocal answered
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.recv(4096)
                    answered += 1
            return answered == QUESTIONS

        server.start()
        async with asyncio.timeout(PATIENCE):
            turns = await turns_of(is_done)
        server.close()

    assert turns >= QUESTIONS / udp.AT_ONCE


async def test_streams() -> None:
    names = lab.Lab(OBJECTS)
    server = tcp.TcpServer(names.answers, lambda *_: None, 128, lambda: True)
    listening = socket.create_server(("127.0.0.1", 0))
    await server.start(listening)
    asked = struct.pack("!H", len(QUERY)) + QUERY
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    writer.write(asked * QUESTIONS)
    counted: Counter[str] = Counter()

    async def read() -> None:
        for _ in range(QUESTIONS):
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            await reader.readexactly(size)
            counted["answers"] += 1

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        group.create_task(read())
        turns = await turns_of(lambda: counted["answers"] == QUESTIONS)
    writer.transport.abort()
    server.close()

    assert turns >= QUESTIONS / udp.AT_ONCE
