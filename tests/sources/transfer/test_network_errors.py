"""What the network does to a request is told in sentences, not in a library's words (C7)."""

import asyncio
import contextlib
import errno
import re
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NoReturn

import aiohttp
import pytest
import structlog.testing

from kproxy.sources.access import kubeconfig
from kproxy.sources.api import client
from kproxy.sources.api.decisions import progress
from kproxy.sources.transfer import network_errors
from tests.sources.access import tls
from tests.sources.api.rig import fake_api, following
from tests.sources.api.rig.fake_api import SERVICES, sends

RAW = re.compile(r"message=|Errno|errno|_ssl\.c|\(\d+, '|ssl:|Error\b|0x[0-9a-f]{6}|<class|\\x")
"""What no sentence for users has in it."""


@contextlib.asynccontextmanager
async def speaking(*answers: bytes) -> AsyncIterator[str]:
    """A server that takes a request, sends one of `answers`, and closes; its URL."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(64 * 1024)
            writer.write(left.pop(0) if len(left) > 1 else left[0])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


async def failure(url: str, **access: object) -> client.RequestError:
    """How a request to `url` fails."""
    given: dict[str, object] = {"server": url, "context": "test", **access}
    made = kubeconfig.ClusterAccess(given.pop("server"), given.pop("context"), **given)  # type: ignore[arg-type]
    async with client.Client(made, environment={}) as api:
        with pytest.raises(client.RequestError) as caught:
            async with api.get(progress.Mode.LIST, "/version", {}) as answer:
                await answer.read_all(10, 1_000_000)
    assert not RAW.search(caught.value.text), caught.value.text
    return caught.value


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWERS = {
    "cut chunk": (CHUNKED + b"ff\r\n{", progress.Outcome.BROKEN_OFF, "cut within an answer"),
    "bad chunk": (CHUNKED + b"zz\r\n{", None, "not HTTP"),
    "short": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
        progress.Outcome.BROKEN_OFF,
        "cut within an answer",
    ),
    "nothing": (b"", progress.Outcome.LOST, "closed the connection instead of an answer"),
    "not http": (b"SSH-2.0-OpenSSH\r\n\r\n", progress.Outcome.UNREACHABLE, "not HTTP"),
    "head too long": (
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        progress.Outcome.UNREACHABLE,
        "not HTTP",
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_bad_answers(case: str) -> None:
    sent, outcome, said = ANSWERS[case]
    async with speaking(sent) as url:
        found = await failure(url)
    # A bad chunk may come with the head, or after it.
    assert found.outcome is outcome or outcome is None
    assert said in found.text


async def test_a_flood_of_interim_answers_ends_at_the_sixth() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while sent < 50_000_000:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
                sent += 25_000
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        found = await failure(f"http://{host}:{port}")
    assert found.outcome is progress.Outcome.UNREACHABLE
    assert found.text == (
        "the answer is not HTTP as it should be: more than 5 interim answers to one request"
    )
    assert sent < 20_000_000  # what the kernel's buffers hold, and not what the server has


async def test_interim_answers_before_the_answer_are_passed_over() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5
    async with speaking(interim + b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as url:
        found = await failure(url)
    assert found.text == "the server answers 404"


async def test_a_port_on_which_nothing_listens() -> None:
    async with speaking(b"") as url:
        pass
    found = await failure(url)
    assert found.outcome is progress.Outcome.REFUSED
    assert found.text == f"connection refused by {url.removeprefix('http://')}"


def test_an_address_of_ipv6_is_written_in_brackets() -> None:
    where = aiohttp.client_reqrep.ConnectionKey(
        "fd00::1",
        6443,
        is_ssl=False,
        ssl=True,
        proxy=None,
        proxy_auth=None,
        proxy_headers_hash=None,
    )
    refused = aiohttp.ClientConnectorError(where, ConnectionRefusedError(errno.ECONNREFUSED, ""))
    assert network_errors.before_answer(refused)[1] == "connection refused by [fd00::1]:6443"


async def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the resolver of this machine says, and however long it takes to."""

    def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    found = await failure("http://api.invalid:6443")
    assert found.outcome is progress.Outcome.UNREACHABLE
    assert found.text.startswith("the name api.invalid has no address: ")


@pytest.mark.parametrize("name", ["api..invalid", f"{'a' * 64}.invalid", "."])
async def test_a_name_that_dns_does_not_allow(name: str) -> None:
    found = await failure(f"http://{name}:6443")
    assert found.outcome is progress.Outcome.UNREACHABLE
    assert "has a name that DNS does not allow: a part of it is empty" in found.text


@pytest.mark.parametrize("token", ["a\r\nX: y", "a\nb", "a\x7fb"])
async def test_a_token_that_no_header_may_have_is_said_and_not_shown(token: str) -> None:
    async with fake_api.serving(fake_api.FakeApi()) as api:
        found = await failure(api.url, user=kubeconfig.User(token=token))
    assert found.text.startswith("the token, or a name to act as, has a control character")
    assert token not in found.text


async def test_certificates_of_another_authority_and_servers_without_tls(tmp_path: Path) -> None:
    made, key = tls.certificate(tmp_path, "server")
    other, _ = tls.certificate(tmp_path, "other")
    async with fake_api.serving(fake_api.FakeApi(), tls.server(made, key)) as api:
        found = await failure(api.url, authority=other)
        assert found.outcome is progress.Outcome.TLS_FAILED
        assert "the server's certificate is not valid: " in found.text
    async with speaking(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        found = await failure(url.replace("http:", "https:"), authority=other)
        assert found.outcome is progress.Outcome.TLS_FAILED


def test_c7_a_watch_that_is_cut_is_a_sentence_and_no_warning() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "watch", sends(fake_api.bookmark(500), then="abort"))
        with structlog.testing.capture_logs() as logs:
            async with following.following(api) as followed:
                await followed.until(lambda: len(api.requests(SERVICES, "watch")) == 2)
        (said,) = (each for each in logs if "watch goes on" in each["event"])
        assert said["log_level"] == "info"
        assert said["event"] == (
            "services: the connection was cut within an answer; the watch goes on from 500"
        )
        assert followed.told == []

    check: Callable[..., None] = following.on_fake_time
    check(scenario)
