"""The clients: what is repeated, what is counted, and what is a failure."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from kproxy.demo.shop import balancer, load, tally
from tests.e2e.rig import manifests

RATE = 100.0
SECONDS = 0.2


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No attempt is given up because this machine is busy."""
    monkeypatch.setattr(load, "_ATTEMPT_SECONDS", 20.0)


@contextlib.asynccontextmanager
async def node(name: str, status: int) -> AsyncIterator[balancer.Node]:
    """A node that answers every request with this status, in the name of pod `a-1`."""
    head = f"HTTP/1.1 {status} X\r\nContent-Length: 9\r\n\r\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(head + b"pod: a-1\n")

    server = await asyncio.start_server(serve, manifests.fresh_ip(127), 0)
    async with server:
        yield balancer.Node(name, *server.sockets[0].getsockname())


def gone(name: str) -> balancer.Node:
    """A node where nothing listens."""
    return balancer.Node(name, *manifests.free_address())


async def counted(*nodes: balancer.Node) -> tally.Tally:
    """What came of some requests through these nodes."""
    made = tally.Tally()
    clients = load.Clients(load.Load(["/user/7"], RATE), balancer.Balancer(nodes), made, None)
    await clients.run(SECONDS, nodes)
    return made


async def test_requests_are_spread_over_the_nodes() -> None:
    async with node("one", 200) as one, node("two", 200) as two:
        made = await counted(one, two)

    assert (made.failed, made.retried_in_all) == (0, 0)
    assert made.by_pod == {"a-1": made.requests}
    assert abs(made.by_node["one"] - made.by_node["two"]) <= 1


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_what_nginx_could_not_do_is_asked_of_the_other_node(status: int) -> None:
    async with node("one", status) as one, node("two", 200) as two:
        made = await counted(one, two)

    assert made.failed == 0
    assert made.by_node == {"two": made.requests}
    assert list(made.retries) == [f"client: status {status} (one)"]


async def test_a_node_that_refuses_is_asked_once() -> None:
    async with node("two", 200) as two:
        made = await counted(gone("one"), two)

    assert made.failed == 0
    assert 1 <= made.retries["client: connection refused (one)"] < made.requests


async def test_another_answer_is_a_failure_and_is_not_repeated() -> None:
    async with node("one", 404) as one, node("two", 404) as two:
        made = await counted(one, two)

    assert (made.failed, made.retried_in_all) == (made.requests, 0)
    assert {failure.reasons for failure in made.failures} == {
        ("status 404 (one)",),
        ("status 404 (two)",),
    }


async def test_after_three_attempts_a_request_has_failed() -> None:
    made = await counted(gone("one"), gone("two"))

    assert made.failed == made.requests > 0
    assert {len(failure.reasons) for failure in made.failures} == {load.ATTEMPTS}
