"""The client's HTTP: what is an answer, and what is none."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from kproxy.demo.shop import http_client
from tests.e2e.rig import manifests

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour"


@contextlib.asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[str, int]]:
    """A server that sends one of these for each request head, then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError):
            for each in answers:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(each)

    server = await asyncio.start_server(serve, manifests.fresh_ip(127), 0)
    async with server:
        yield server.sockets[0].getsockname()


async def test_a_connection_is_kept_for_further_requests() -> None:
    last = GOOD.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
    async with answering(GOOD, last) as address:
        connection = await http_client.Connection.open(*address)
        with contextlib.closing(connection):
            assert await connection.get("/a", "host") == http_client.Answer(200, "four")
            assert connection.is_usable
            assert await connection.get("/b", "host") == http_client.Answer(200, "four")
            assert not connection.is_usable


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"", "closed unanswered"),
        (GOOD[:-1], "closed in the middle of an answer"),
        (GOOD[:10], "closed in the middle of an answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "an answer that is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "an answer too long"),
        (b"\r\n\r\n", "an answer that is not HTTP"),
    ],
)
async def test_what_is_no_whole_answer_is_said(sent: bytes, why: str) -> None:
    async with answering(sent) as (address, port):
        with pytest.raises(http_client.NoAnswerError, match=why):
            await http_client.get(address, port, "/", "host", 10.0)


async def test_a_refused_connection_is_said() -> None:
    address, port = manifests.free_address()
    with pytest.raises(http_client.NoAnswerError, match="connection refused"):
        await http_client.get(address, port, "/", "host", 10.0)
