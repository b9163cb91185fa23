"""Strangers who talk to the ops servers slowly, at length, or nonsense."""

import asyncio
import contextlib
import email.utils
import gzip
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from http import client as http_client

import pytest
import structlog

from kproxy.ops.serving import answers, heads, responder
from tests import garbage, virtual_time
from tests.ops import surfaces

BIG = b"x" * 50_000_000


def make_site() -> responder.Site:
    """A page that greets, one that is big, and one with a bug."""

    async def greet(_request: heads.Request) -> answers.Answer:
        return answers.sentence(200, "hello")

    async def big(_request: heads.Request) -> answers.Answer:
        return answers.Answer(200, BIG)

    async def streamed(_request: heads.Request) -> answers.Answer:
        return answers.Answer(200, stream(), may_be_compressed=True)

    async def stream() -> answers.Body:
        for number in range(100):
            yield b"%d," % number
            await asyncio.sleep(0)

    async def endless(_request: heads.Request) -> answers.Answer:
        return answers.Answer(200, ticks(), is_endless=True)

    async def ticks() -> answers.Body:
        yield b"tick"
        while True:
            await asyncio.sleep(0.1)
            yield b""

    async def bug(_request: heads.Request) -> answers.Answer:
        raise ZeroDivisionError

    return responder.Site(
        {"/": greet, "/big": big, "/stream": streamed, "/endless": endless, "/bug": bug}
    )


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[str]:
    """The address of a server."""
    listener = responder.Listener("test", surfaces.anywhere(), make_site)
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
async def address() -> AsyncIterator[str]:
    async with listening() as where:
        yield where


def on_fake_time(scenario: Callable[[str], Awaitable[None]]) -> None:
    """Run a scenario at the address of a server; what waits a minute takes no time."""

    async def main() -> None:
        async with listening() as where:
            await scenario(where)

    virtual_time.run(main)


async def connect(address: str, text: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that has sent `text` and waits."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text)
    return reader, writer


async def is_ended(reader: asyncio.StreamReader) -> bool:
    """Return when the server has ended the connection."""
    async with asyncio.timeout(surfaces.SECONDS):
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
    return True


def test_a_crowd_of_half_requests_does_not_keep_others_out() -> None:
    async def scenario(address: str) -> None:
        async with contextlib.AsyncExitStack() as crowd:
            readers = []
            for _ in range(200):
                reader, writer = await connect(address, b"GET / HTTP/1.1\r\nHost:")
                crowd.callback(writer.close)
                readers.append(reader)

            status, _, body = await surfaces.get(address, "/")

            assert (status, body) == (200, b"hello")
            assert all([await is_ended(each) for each in readers[: -responder.MAX_CONNECTIONS]])
            assert not any(each.at_eof() for each in readers[-responder.MAX_CONNECTIONS + 1 :])

    on_fake_time(scenario)


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
def test_a_connection_does_not_last(text: bytes) -> None:
    async def scenario(address: str) -> None:
        reader, writer = await connect(address, text)

        assert await is_ended(reader)
        assert asyncio.get_running_loop().time() <= 3 * responder.PATIENCE
        writer.close()

    on_fake_time(scenario)


def test_who_drips_a_request_is_cut() -> None:
    async def scenario(address: str) -> None:
        reader, writer = await connect(address, b"GET / HTTP/1.1\r\n")

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"X")
                    await writer.drain()
                    await asyncio.sleep(1)

        async with asyncio.TaskGroup() as group:
            dripping = group.create_task(drip())
            assert await is_ended(reader)
            dripping.cancel()
        writer.close()

    on_fake_time(scenario)


def test_who_does_not_read_the_answer_is_cut() -> None:
    async def scenario(address: str) -> None:
        host, port = address.split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            await virtual_time.until(lambda: not _is_established(client), 4 * responder.PATIENCE)

        assert (await surfaces.get(address, "/"))[0] == 200

    on_fake_time(scenario)


def _is_established(client: socket.socket) -> bool:
    """The kernel's view of a connection from which the client does not read."""
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
    with structlog.testing.capture_logs() as logs, caplog.at_level(logging.DEBUG):
        try:
            answer = await surfaces.ask(address, request_text)
        except ConnectionError:  # it was still being sent
            answer = b""

    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert b"Traceback" not in answer
    assert logs == []
    assert caplog.records == []
    assert (await surfaces.get(address, "/"))[0] == 200


async def test_pipelined_requests_are_answered_in_order(address: str) -> None:
    once = "GET / HTTP/1.1\nHost: x\n\n"
    last = "GET /nope HTTP/1.1\nHost: x\nConnection: close\n\n"

    answer = await surfaces.ask(address, 20 * once + last)

    assert answer.count(b"hello") == 20
    assert answer.rindex(b"404") > answer.rindex(b"hello")


async def test_a_bug_is_an_answer_of_its_own_and_is_logged(address: str) -> None:
    with structlog.testing.capture_logs() as logs:
        status, _, body = await surfaces.get(address, "/bug")

    assert status == 500
    assert b"ZeroDivision" not in body
    assert [(log["log_level"], log["path"]) for log in logs] == [("error", "/bug")]
    assert (await surfaces.get(address, "/"))[0] == 200


def framed(answer: bytes) -> tuple[bytes, bytes]:
    """The head and the rest of an answer."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    return head, rest


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        pytest.param("GET /" + "a" * 1_000_000 + " HTTP/1.1\nHost: x\n\n", 414, id="URL of 1 MB"),
        pytest.param("GET / HTTP/1.1\nHost: x\n" + "A: b\n" * 10_000, 431, id="10,000 headers"),
        pytest.param("GET / HTTP/1.1\nHost: x\n" + "A: b\n" * 65 + "\n", 431, id="65 headers"),
        pytest.param("GET / HTTP/1.1\nHost: x\nA: " + "b" * 200_000, 431, id="a long header"),
        pytest.param(
            "POST / HTTP/1.1\nHost: x\nContent-Length: 99999999\n\n" + "a" * 99999,
            413,
            id="a large body",
        ),
        pytest.param("POST / HTTP/1.1\nHost: x\nContent-Length: 4\n\nfour", 405, id="a small body"),
        pytest.param("GET / HTTP/1.1\nHost: x\nContent-Length: 4097\n\n", 413, id="a body of 4097"),
        pytest.param(
            "GET / HTTP/1.1\nHost: x\nContent-Length: 4\nContent-Length: 4\n\nfour",
            400,
            id="two lengths",
        ),
        pytest.param("GET / HTTP/1.1\nHost: x\nContent-Length: -1\n\n", 400, id="negative"),
        pytest.param(
            "GET / HTTP/1.1\nHost: x\nContent-Length: " + "9" * 4000 + "\n\n", 400, id="digits"
        ),
        pytest.param(
            "GET / HTTP/1.1\nHost: x\nContent-Length: 4\nTransfer-Encoding: chunked\n\n0\n\n",
            400,
            id="a length and chunks",
        ),
        pytest.param(
            "GET / HTTP/1.1\nHost: x\nTransfer-Encoding: gzip\n\n", 501, id="an unknown coding"
        ),
        pytest.param(
            "GET / HTTP/1.1\nHost: x\nContent-Length: 1\nExpect: magic\n\n", 417, id="expectation"
        ),
        pytest.param("GET / HTTP/1.1\n\n", 400, id="no host"),
        pytest.param("GET / HTTP/1.1\nHost: x\nHost: y\n\n", 400, id="two hosts"),
        pytest.param("GET / HTTP/1.1\nHost: x\nA: b\n c\n\n", 400, id="a folded line"),
        pytest.param("GET / HTTP/1.1\nHost : x\n\n", 400, id="a blank before the colon"),
        pytest.param("GET / HTTP/1.1\nHost: x\nA: \x01\n\n", 400, id="a control character"),
        pytest.param("GET  / HTTP/1.1\nHost: x\n\n", 400, id="two blanks"),
        pytest.param("GET /\n\n", 400, id="HTTP/0.9"),
        pytest.param("GET ../etc HTTP/1.1\nHost: x\n\n", 400, id="no path"),
        pytest.param("PRI * HTTP/2.0\n\nSM\n\n", 505, id="HTTP/2"),
        pytest.param("GET /\n", 400, id="a line of HTTP/0.9 and no more"),
        pytest.param("\nGET /\n", 400, id="an empty line, then HTTP/0.9"),
        pytest.param("HELO mail.example\n", 400, id="another protocol"),
        pytest.param("CONNECT x:80 HTTP/1.1\nHost: x\n\n", 405, id="CONNECT"),
        pytest.param("OPTIONS * HTTP/1.1\nHost: x\n\n", 405, id="OPTIONS"),
        pytest.param("\x16\x03\x01\x02\x00\x01", 400, id="TLS"),
        pytest.param("SSH-2.0-OpenSSH_9.2\n\n", 400, id="SSH"),
    ],
)
async def test_what_is_refused_is_refused_with_its_reason_and_the_connection_ends(
    address: str, request_text: str, status: int
) -> None:
    answer = await surfaces.ask(address, request_text)

    head, body = framed(answer)
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close" in head
    assert len(body) < 100
    assert (await surfaces.get(address, "/"))[0] == 200


async def test_bare_line_feeds_are_refused(address: str) -> None:
    reader, writer = await connect(address, b"GET / HTTP/1.1\nHost: x\n\n")

    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()


@pytest.mark.parametrize(
    "request_text",
    [
        pytest.param("GET / HTTP/1.1\nHost: x\nContent-Length: 4\n\nfour", id="a small body"),
        pytest.param("GET / HTTP/1.1\nHost: x\nContent-Length: 4\n\n", id="half a body"),
        pytest.param(
            "GET / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\nffffff\nabc", id="chunks"
        ),
        pytest.param(
            "GET / HTTP/1.1\nHost: x\nContent-Length: 4\nExpect: 100-continue\n\n", id="Expect"
        ),
        pytest.param("GET http://x/?a=b HTTP/1.1\nHost: x\nConnection: close\n\n", id="absolute"),
        pytest.param("\nGET / HTTP/1.1\nHost: x\nConnection: close\n\n", id="an empty line first"),
        pytest.param("GET / HTTP/1.1\nHost:\nA:\tb \nConnection: a, Close\n\n", id="odd headers"),
        pytest.param("GET / HTTP/1.0\n\n", id="HTTP/1.0"),
    ],
)
async def test_what_is_unusual_and_right_is_answered(address: str, request_text: str) -> None:
    head, body = framed(await surfaces.ask(address, request_text))

    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == b"hello"


async def test_a_client_that_sends_no_more_is_still_answered(address: str) -> None:
    reader, writer = await connect(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    writer.write_eof()

    assert (await reader.read()).count(b"hello") == 3
    writer.close()


async def test_a_request_may_come_byte_by_byte(address: str) -> None:
    reader, writer = await connect(address, b"")
    for byte in b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)

    assert (await reader.read()).endswith(b"hello")
    writer.close()


async def test_a_stream_is_chunked_and_compressed_where_the_client_understands_it(
    address: str,
) -> None:
    def fetched(headers: dict[str, str]) -> tuple[str | None, bytes]:
        host, port = address.split(":")
        with contextlib.closing(http_client.HTTPConnection(host, int(port), timeout=30)) as asked:
            asked.request("GET", "/stream", headers=headers)
            response = asked.getresponse()
            return response.getheader("Content-Encoding"), response.read()

    plain = await asyncio.to_thread(fetched, {})
    packed = await asyncio.to_thread(fetched, {"Accept-Encoding": "deflate, gzip;q=0.5"})
    refused = await asyncio.to_thread(fetched, {"Accept-Encoding": "gzip;q=0"})
    _, headers, old = await surfaces.get(address, "/stream")

    expected = b"".join(b"%d," % number for number in range(100))
    assert plain == refused == (None, expected)
    assert (packed[0], gzip.decompress(packed[1])) == ("gzip", expected)
    assert "Transfer-Encoding" not in headers
    assert old == expected


def test_an_endless_answer_lasts_until_its_client_leaves() -> None:
    async def scenario(address: str) -> None:
        reader, writer = await connect(address, b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"tick")
        for _ in range(2 * responder.MAX_CONNECTIONS):
            assert (await surfaces.get(address, "/"))[0] == 200
        await asyncio.sleep(6 * responder.PATIENCE)  # in which an ordinary connection is ended

        assert not reader.at_eof()
        writer.close()

    on_fake_time(scenario)


HOSTILE = [
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 100_000, id="a large header"),
    pytest.param(b"GET /" + b"a" * 100_000, id="a long URL", marks=pytest.mark.extra),
    pytest.param(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n" + b"a" * 99999,
        id="a body",
        marks=pytest.mark.extra,
    ),
    pytest.param(
        b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\nabc", id="a chunk"
    ),
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20, id="pipelined"),
    pytest.param(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n", id="a stream that is cut"),
    pytest.param(
        b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n", id="an endless answer", marks=pytest.mark.extra
    ),
    pytest.param(
        b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n",
        id="an answer that is not read",
        marks=pytest.mark.extra,
    ),
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n", id="half a head", marks=pytest.mark.extra),
    pytest.param(b"\x16\x03\x01", id="TLS", marks=pytest.mark.extra),
    pytest.param(b"", id="nothing", marks=pytest.mark.extra),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_is_left_for_the_garbage_collector(text: bytes) -> None:
    """Counted: what only the collector would free. It must not grow with the connections."""

    async def visit(address: str, times: int) -> None:
        host, port = address.split(":")
        for _ in range(times):
            with socket.create_connection((host, int(port))) as client:
                client.setblocking(False)
                with contextlib.suppress(OSError):
                    client.send(text)
                await asyncio.sleep(0.002)
        # The crowd is gone when a connection that comes later has been answered and is gone.
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            client.setblocking(False)
            await surfaces.until(lambda: _is_answered(client))
        await asyncio.sleep(0.05)

    few, many = garbage.counted(listening, visit)

    assert many <= few + garbage.MARGIN, "each connection leaves something"


def _is_answered(client: socket.socket) -> bool:
    try:
        return client.recv(65536, socket.MSG_PEEK).endswith(b"hello")
    except BlockingIOError:
        return False


async def test_an_answer_is_dated_as_http_has_it(address: str) -> None:
    before = time.time() - 1
    _, headers, _ = await surfaces.get(address, "/")

    dated = email.utils.parsedate_to_datetime(headers["Date"])
    assert before <= dated.timestamp() <= time.time()
    assert email.utils.format_datetime(dated, usegmt=True) == headers["Date"]
