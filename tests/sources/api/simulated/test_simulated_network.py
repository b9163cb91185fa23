"""What needs real time, TLS, or a network of its own (K08, K10, K21).

The table of all cases is in test_simulated_outages.
"""

import asyncio
import contextlib
import random
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kproxy.simulator import certificates
from kproxy.simulator.api import apiserver
from kproxy.sources.access import kubeconfig, transport
from kproxy.sources.api import client
from kproxy.sources.api.decisions import progress
from tests.relay import netns
from tests.sources.api.rig import simulated_api
from tests.sources.api.rig.simulated_api import Api, beside, until

DROP_EVERYTHING = """
table ip lost {
  chain out { type filter hook output priority 0; policy drop; }
  chain in { type filter hook input priority 0; policy drop; }
}
"""


@pytest.fixture
def network() -> Iterator[netns.Network]:
    with netns.network() as made, netns.inside(made.proxy):
        yield made


def test_k08_the_keepalive_bound_is_25_seconds() -> None:
    options = dict(transport.KEEPALIVE)
    probes = options[socket.TCP_KEEPCNT] * options[socket.TCP_KEEPINTVL]
    assert options[socket.TCP_KEEPIDLE] + probes == 25
    # It is this that decides, once it is set, also about probes (tcp_keepalive_timer).
    assert transport.USER_TIMEOUT_MS == 25_000


@pytest.mark.netns
@netns.needs_root
@netns.needs_tools
async def test_k08_a_server_whose_packets_are_dropped_is_noticed_by_keepalive(
    network: netns.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a bound of 4 s in place of 25 s; the silence that ends a watch would take 70 s."""
    shorter = ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 3))
    monkeypatch.setattr(transport, "KEEPALIVE", shorter)
    monkeypatch.setattr(transport, "USER_TIMEOUT_MS", 4000)
    api = Api(address=netns.BACKEND)
    api.serve_web("10.1.0.1")
    with netns.inside(network.backend):
        await api.server.start()
    try:
        async with beside(api) as proxy:
            await until(lambda: all(each.watches >= 1 for each in proxy.counters), 60)
            await until(lambda: proxy.informed.has_synced, 60)
            network.tool(network.proxy, "nft", DROP_EVERYTHING)
            api.put_slice("web-1", "web", "10.1.0.2")
            lost = progress.Outcome.BROKEN_OFF
            await until(lambda: all(each.failures[lost] for each in proxy.counters), 60)
            assert proxy.failures()[progress.Outcome.SILENT] == 0
            assert proxy.table() == {"web": {"10.1.0.1"}}
            network.tool(network.proxy, "nft", "flush ruleset")
            await until(lambda: proxy.table() == {"web": {"10.1.0.2"}}, 60)
            assert proxy.relists() == {"start": 2}
    finally:
        await api.server.stop()


async def test_k10_tls_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ESTABLISHMENT_SECONDS", 0.2)
    accepted: list[asyncio.StreamWriter] = []

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        with contextlib.suppress(ConnectionError):
            await reader.read()  # until the client gives up
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        number = server.sockets[0].getsockname()[1]
        access = kubeconfig.ClusterAccess(f"https://127.0.0.1:{number}", "test")
        async with beside(Api(), access=access) as proxy:
            await until(lambda: len(accepted) >= 4 and len(proxy.told) >= 2, 60)
            assert len(proxy.told) == 2
            assert all("no answer within 0.2 s" in each for each in proxy.sentences())


def certificate(age: timedelta) -> certificates.Certificate:
    """Good for a year from its making."""
    return certificates.self_signed(("127.0.0.1",), (), datetime.now(UTC) - age)


class Impatient(random.Random):
    """Draws short waits: how long they may be is tested elsewhere, on a fake clock."""

    def uniform(self, a: float, b: float) -> float:
        """A twentieth of the way."""
        return a + (b - a) / 20


async def test_k21_an_expired_certificate_is_refused_until_there_is_a_new_one(
    tmp_path: Path,
) -> None:
    """Renewed on the server, and in the file of its authority: kproxy needs no restart."""
    api, authority, token = Api(), tmp_path / "ca.crt", {simulated_api.TOKEN: "kproxy"}
    api.serve_web("10.1.0.1")

    def serving(shown: certificates.Certificate, port: int = 0) -> apiserver.ApiServer:
        authority.write_bytes(shown.pem)
        return apiserver.ApiServer(api.registry, tokens=token, certificate=shown, port=port)

    async with serving(certificate(timedelta())) as first:
        user = kubeconfig.User(token=simulated_api.TOKEN)
        access = kubeconfig.ClusterAccess(first.url, "test", user, authority)
        async with beside(api, access=access, rng=Impatient()) as proxy:
            await until(lambda: proxy.informed.has_synced, 60)
            assert proxy.told == []
            await first.stop()
            async with serving(certificate(timedelta(days=500)), first.port):
                api.put_slice("web-1", "web", "10.1.0.2")
                # From the second failure on it is trusted, and refused only for its age.
                tls = progress.Outcome.TLS_FAILED
                await until(lambda: all(each.failures[tls] >= 3 for each in proxy.counters), 60)
                told = [str(problem) for problem in proxy.informed.problems()]
                assert len(told) == 2
                assert all("cannot watch: TLS failed" in each for each in told)
                assert proxy.table() == {"web": {"10.1.0.1"}}
            async with serving(certificate(timedelta()), first.port):
                await until(lambda: proxy.table() == {"web": {"10.1.0.2"}}, 60)
                await until(lambda: proxy.informed.problems() == (), 60)
                # A watch that was refused goes on; one on which TLS failed is followed by a list.
            assert proxy.relists()["start"] == 2
            assert proxy.relists().total() <= 4
