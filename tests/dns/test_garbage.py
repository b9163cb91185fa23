"""Memory is freed without the garbage collector, which runs seldom in a proxy."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import dns.message

from tests import garbage
from tests.dns.rig import mutations, servers

OURS = dns.message.make_query("web.default.svc.cluster.local", "A", use_edns=0).to_wire()
THEIRS = dns.message.make_query("www.example.com", "A", use_edns=0).to_wire()


async def visit(port: int, times: int) -> None:
    """Ask by UDP and TCP, well and badly, for names of this server and of another one."""
    rng = random.Random(times)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as datagrams:
        datagrams.connect(("127.0.0.1", port))
        for number in range(times):
            for packet in (OURS, THEIRS, mutations.mutated(rng, OURS)):
                with contextlib.suppress(OSError):
                    datagrams.send(packet)
            with socket.create_connection(("127.0.0.1", port)) as client:
                for packet in (OURS, THEIRS):
                    client.send(len(packet).to_bytes(2, "big") + packet)
                if number % 2:
                    client.send(b"\0\3abc")
                await asyncio.sleep(0.002)
    await asyncio.sleep(0.05)


def test_nothing_is_left_for_the_garbage_collector(tmp_path: Path) -> None:
    """Counted: what only the collector would free. It must not grow with the questions."""

    @contextlib.asynccontextmanager
    async def serving() -> AsyncIterator[int]:
        async with (
            servers.Other(servers.saying("192.0.2.7")).running() as other,
            servers.serving(tmp_path, upstreams=[other.address]) as (_, port),
        ):
            yield port

    few, many = garbage.counted(serving, visit)

    assert many <= few + garbage.MARGIN, "each question leaves something"
