"""Questions over TCP: one after the other, many at once, and clients that misbehave."""

import asyncio
import collections
import contextlib
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast
from unittest import mock

import dns.asyncquery
import dns.message
import pytest

from kproxy import turns
from kproxy.dns import responder, settings, tcp
from tests.dns.rig import servers

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.21, ports: [{port: 80}]}
"""
NAME = "web.default.svc.cluster.local"
PATIENCE = 20.0


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    """The port of a name server that knows `SERVICE`."""
    (tmp_path / "web.yaml").write_text(SERVICE)
    async with servers.serving(tmp_path) as (_, port):
        yield port


def framed(query: dns.message.Message) -> bytes:
    """A message as TCP carries it."""
    packet = query.to_wire()
    return struct.pack("!H", len(packet)) + packet


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the name server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(PATIENCE):
            yield reader, writer
    finally:
        writer.transport.abort()


async def read(reader: asyncio.StreamReader) -> dns.message.Message:
    """The next answer."""
    (size,) = struct.unpack("!H", await reader.readexactly(2))
    return dns.message.from_wire(await reader.readexactly(size))


async def test_dnspython_asks_over_tcp(port: int) -> None:
    response = await dns.asyncquery.tcp(
        dns.message.make_query(NAME, "A"), "127.0.0.1", port=port, timeout=PATIENCE
    )

    assert [data.to_text() for data in response.answer[0]] == ["127.96.0.21"]


async def test_many_questions_at_once_are_all_answered(port: int) -> None:
    queries = [dns.message.make_query(NAME, "A", id=number) for number in range(1000)]
    async with connected(port) as (reader, writer):
        writer.write(b"".join(map(framed, queries)))
        writer.write_eof()

        answers = [await read(reader) for _ in queries]

        assert all(map(dns.message.Message.is_response, queries, answers))
        assert await reader.read() == b""


async def test_a_message_may_come_in_pieces(port: int) -> None:
    query = dns.message.make_query(NAME, "A")
    async with connected(port) as (reader, writer):
        for byte in framed(query):
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0)

        assert query.is_response(await read(reader))


@pytest.mark.parametrize(
    "message",
    [
        struct.pack("!H", 0),
        struct.pack("!H", 3) + b"abc",
        struct.pack("!H", 12) + bytes((0, 1, 0x80, *bytes(9))),
    ],
)
async def test_what_cannot_be_answered_ends_the_connection(port: int, message: bytes) -> None:
    async with connected(port) as (reader, writer):
        writer.write(message)

        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""


async def test_a_client_that_does_not_read_is_not_read_from(port: int) -> None:
    message = framed(dns.message.make_query(NAME, "A"))
    async with connected(port) as (_, writer):
        while not writer.is_closing() and writer.transport.get_write_buffer_size() < 1_000_000:
            writer.write(message * 1000)
            await asyncio.sleep(0)

        # Others are answered in the meantime.
        response = await dns.asyncquery.tcp(
            dns.message.make_query(NAME, "A"), "127.0.0.1", port=port, timeout=PATIENCE
        )
        assert response.answer


async def test_one_connection_too_many_ends_the_most_silent_one(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(SERVICE)
    query = dns.message.make_query(NAME, "A")
    async with (
        servers.serving(tmp_path, bounds=settings.Bounds(connections=2)) as (_, port),
        connected(port) as first,
        connected(port) as second,
    ):
        for reader, writer in (first, second, first):
            writer.write(framed(query))
            await read(reader)
        async with connected(port) as (reader, writer):
            writer.write(framed(query))

            assert query.is_response(await read(reader))
            with contextlib.suppress(ConnectionResetError):
                assert await second[0].read() == b""
            first[1].write(framed(query))
            assert query.is_response(await read(first[0]))


async def test_a_silent_connection_ends(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "PATIENCE", 0.0)
    async with connected(port) as (reader, writer):
        writer.write(b"\0")

        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""


class Slow:
    """Answers with one byte; takes note of when, counted in turns of the event loop."""

    def __init__(self) -> None:
        self.turn = 0
        self.answered: collections.Counter[int] = collections.Counter()

    def message(self, packet: bytes) -> bytes:
        self.answered[self.turn] += 1
        return packet[:1]


class ShortSlice:
    """A slice of time that is over at the third look."""

    def __init__(self) -> None:
        self.looks = 0

    @property
    def is_over(self) -> bool:
        self.looks += 1
        return self.looks > 2


async def test_many_clients_that_pipeline_share_one_slice_of_each_turn_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "Slice", ShortSlice)
    answers = Slow()
    server = tcp.TcpServer(cast("responder.Responder", answers), lambda *_: None, 128)
    transports = [mock.create_autospec(asyncio.Transport, instance=True) for _ in range(40)]
    for each in transports:
        client = tcp.Connection(server)
        client.connection_made(each)
        client.data_received(framed(dns.message.make_query(NAME, "A")) * 100)

    while answers.answered.total() < 4000:
        await asyncio.sleep(0)
        answers.turn += 1
        assert answers.answered.keys() >= set(range(1, answers.turn)), "nothing in a turn"

    assert max(answers.answered.values()) <= 40
    assert all(each.write.call_count == 100 for each in transports)
    assert all(each.pause_reading.called for each in transports)
