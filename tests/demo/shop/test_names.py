"""How a pod of the shop finds a Service: search list, and one server after the other."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import cast

import dns.message
import dns.rcode
import dns.rrset
import pytest

from kproxy import settings
from kproxy.demo.shop import http_client, names
from tests.e2e.rig import manifests


class Server(asyncio.DatagramProtocol):
    """Knows one name, and notes what it is asked."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.asked: list[str] = []
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, client: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text()
        self.asked.append(name)
        response = dns.message.make_response(query)
        if name == self._name:
            response.answer.append(dns.rrset.from_text(name, 5, "IN", "A", "127.96.0.1"))
        else:
            response.set_rcode(dns.rcode.NXDOMAIN)
        assert self._transport is not None
        self._transport.sendto(b"noise", client)
        self._transport.sendto(response.to_wire(), client)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is slow, on a busy machine, is not asked twice."""
    monkeypatch.setattr(names, "_SECONDS", 20.0)


@contextlib.asynccontextmanager
async def serving(name: str) -> AsyncIterator[tuple[Server, settings.Listen]]:
    """A server on a free port."""
    server = Server(name)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: server, local_addr=(manifests.fresh_ip(127), 0)
    )
    try:
        yield server, settings.Listen(*transport.get_extra_info("sockname"))
    finally:
        transport.close()


async def test_the_search_list_is_tried_in_order() -> None:
    async with serving("web.svc.cluster.local.") as (server, place):
        assert await names.resolve("web", [place]) == "127.96.0.1"

    assert server.asked == ["web.default.svc.cluster.local.", "web.svc.cluster.local."]


async def test_a_server_that_does_not_run_makes_room_for_the_next() -> None:
    away = settings.Listen(*manifests.free_address())
    async with serving("web.default.svc.cluster.local.") as (_, place):
        assert await names.resolve("web", [away, place]) == "127.96.0.1"
        with pytest.raises(http_client.NoAnswerError, match="DNS: no such name"):
            await names.resolve("other", [away, place])

    with pytest.raises(http_client.NoAnswerError, match="DNS: connection refused"):
        await names.resolve("web", [away])
