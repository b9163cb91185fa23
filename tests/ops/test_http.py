"""Strangers who talk to the ops servers slowly, at length, or nonsense."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator

import pytest
import structlog
from aiohttp import web

from kproxy.ops import http
from tests.ops import serving

BIG = b"x" * 50_000_000


def make_app() -> web.Application:
    """A page that greets, one that is big, and one with a bug."""

    async def greet(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def big(_request: web.Request) -> web.Response:
        return web.Response(body=BIG)

    async def bug(_request: web.Request) -> web.Response:
        raise ZeroDivisionError

    app = web.Application()
    app.router.add_get("/", greet)
    app.router.add_get("/big", big)
    app.router.add_get("/bug", bug)
    return app


@pytest.fixture
async def address() -> AsyncIterator[str]:
    listener = http.Listener("test", serving.anywhere(), make_app)
    listener.bind()
    assert listener.address
    try:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(listener.run())
            yield listener.address
            running.cancel()
    finally:
        listener.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may stay long."""
    monkeypatch.setattr(http, "PATIENCE", 0.05)


async def connect(address: str, text: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that has sent `text` and waits."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text)
    return reader, writer


async def is_ended(reader: asyncio.StreamReader) -> bool:
    """Return when the server has ended the connection."""
    async with asyncio.timeout(serving.SECONDS):
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
    return True


async def test_a_crowd_of_half_requests_does_not_keep_others_out(address: str) -> None:
    async with contextlib.AsyncExitStack() as crowd:
        readers = []
        for _ in range(200):
            reader, writer = await connect(address, b"GET / HTTP/1.1\r\nHost:")
            crowd.callback(writer.close)
            readers.append(reader)

        status, _, body = await serving.get(address, "/")

        assert (status, body) == (200, b"hello")
        assert all([await is_ended(reader) for reader in readers[: -http.MAX_CONNECTIONS]])
        assert not any(reader.at_eof() for reader in readers[-http.MAX_CONNECTIONS + 1 :])


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET / HT", id="half a line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n", id="half a head"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nfour", id="half a body"
        ),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="an answered request"),
    ],
)
async def test_a_connection_does_not_last(address: str, text: bytes) -> None:
    reader, writer = await connect(address, text)

    assert await is_ended(reader)
    writer.close()


@pytest.mark.usefixtures("impatient")
async def test_who_drips_a_request_is_cut(address: str) -> None:
    reader, writer = await connect(address, b"GET / HTTP/1.1\r\n")

    async def drip() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"X: y\r\n"[:1])
                await writer.drain()
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        dripping = group.create_task(drip())
        assert await is_ended(reader)
        dripping.cancel()
    writer.close()


@pytest.mark.usefixtures("impatient")
async def test_who_does_not_read_the_answer_is_cut(address: str) -> None:
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        await serving.until(lambda: not _is_established(client))

    assert (await serving.get(address, "/"))[0] == 200


def _is_established(client: socket.socket) -> bool:
    """What the kernel says of a connection that nobody reads from."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1


@pytest.mark.parametrize(
    "request_text",
    [
        pytest.param("GET /" + "a" * 65536 + " HTTP/1.1\nHost: x\n\n", id="64 KiB of URL"),
        pytest.param(
            "GET / HTTP/1.1\nHost: x\n" + "A: b\n" * 100_000 + "\n", id="a hundred thousand headers"
        ),
        pytest.param("GET / HTTP/1.1\nHost: x\nA: " + "b" * 65536 + "\n\n", id="a long header"),
        pytest.param("GET / HTTP/9.9 \x00\n\n", id="nonsense"),
    ],
)
async def test_requests_that_are_too_much_are_refused_in_silence(
    address: str, request_text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with structlog.testing.capture_logs() as logs, caplog.at_level(logging.DEBUG, "aiohttp"):
        try:
            answer = await serving.ask(address, request_text)
        except ConnectionError:  # it was still being sent
            answer = b""

    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b"Traceback" not in answer
    assert logs == []
    assert caplog.records == []
    assert (await serving.get(address, "/"))[0] == 200


async def test_pipelined_requests_are_answered_in_order(address: str) -> None:
    once = "GET / HTTP/1.1\nHost: x\n\n"
    last = "GET /nope HTTP/1.1\nHost: x\nConnection: close\n\n"

    answer = await serving.ask(address, 20 * once + last)

    assert answer.count(b"hello") == 20
    assert answer.rindex(b"404") > answer.rindex(b"hello")


async def test_a_bug_is_an_answer_of_its_own_and_is_logged(address: str) -> None:
    with structlog.testing.capture_logs() as logs:
        status, _, body = await serving.get(address, "/bug")

    assert status == 500
    assert b"ZeroDivision" not in body
    assert [(log["log_level"], log["path"]) for log in logs] == [("error", "/bug")]
    assert (await serving.get(address, "/"))[0] == 200
