"""The component: sockets, and following a source."""

import asyncio
import errno
import random
import socket
from pathlib import Path

import dns.asyncquery
import dns.message
import pytest

from kproxy import errors, settings
from kproxy.dns import located, name_server
from kproxy.portal import loopback
from kproxy.sources.files import manifests
from tests.dns.rig import lab, mutations, servers

SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}
"""


async def asked(port: int, name: str, where: str = "127.0.0.1") -> list[str]:
    """The addresses that a name has."""
    query = dns.message.make_query(name, "A")
    response = await dns.asyncquery.udp(query, where, port=port, timeout=10)
    return [data.to_text() for rrset in response.answer for data in rrset]


async def test_a_change_of_a_file_is_in_the_answers(tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(SERVICE.format(name="web", ip="10.96.0.21"))
    async with servers.serving(tmp_path) as (_, port):
        assert await asked(port, "web.default.svc.cluster.local") == ["127.96.0.21"]
        assert await asked(port, "late.default.svc.cluster.local") == []

        file.write_text(SERVICE.format(name="late", ip="10.96.0.22"))

        async with asyncio.timeout(20):
            while await asked(port, "late.default.svc.cluster.local") != ["127.96.0.22"]:  # noqa: ASYNC110  # the network has no event
                await asyncio.sleep(0.01)
            # Each Service of a change is a step of its own.
            while await asked(port, "web.default.svc.cluster.local"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_bound_to_all_addresses_it_answers_from_the_one_that_was_asked(
    tmp_path: Path,
) -> None:
    (tmp_path / "web.yaml").write_text(SERVICE.format(name="web", ip="10.96.0.21"))
    async with servers.serving(tmp_path, "0.0.0.0") as (_, port):
        for where in ("127.0.0.1", "127.0.0.77"):
            for _ in range(2):
                assert await asked(port, "web.default.svc", where) == ["127.96.0.21"]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
async def test_bound_to_all_addresses_of_both_families(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(SERVICE.format(name="web", ip="10.96.0.21"))
    async with servers.serving(tmp_path, "::") as (_, port):
        for where in ("127.0.0.77", "::1"):
            for _ in range(2):
                assert await asked(port, "web.default.svc", where) == ["127.96.0.21"]


async def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        place = settings.Listen(*taken.getsockname())
        server = name_server.NameServer(
            place,
            manifests.ManifestSource((tmp_path,), on_problem=print, kinds=lab.KINDS),
            located.through(lab.of(loopback.LoopbackPortal(1))),
            domain=lab.DOMAIN,
        )

        with pytest.raises(errors.KproxyError, match=f"cannot answer DNS at {place}"):
            server.bind()

        server.close()


async def test_broken_packets_harm_no_other_client(tmp_path: Path) -> None:
    rng = random.Random(3)
    whole = dns.message.make_query("web.default.svc.cluster.local", "A", use_edns=0).to_wire()
    (tmp_path / "web.yaml").write_text(SERVICE.format(name="web", ip="10.96.0.21"))
    async with servers.serving(tmp_path) as (_, port):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.connect(("127.0.0.1", port))
            for _ in range(40):
                for _ in range(50):
                    stranger.send(mutations.mutated(rng, whole))
                assert await asked(port, "web.default.svc.cluster.local") == ["127.96.0.21"]


async def test_a_port_that_this_user_may_not_bind_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    server = name_server.NameServer(
        settings.Listen("127.0.0.1", 53),
        manifests.ManifestSource((tmp_path,), on_problem=print, kinds=lab.KINDS),
        located.through(lab.of(loopback.LoopbackPortal(1))),
        domain=lab.DOMAIN,
    )

    with pytest.raises(errors.KproxyError, match="may not bind so low a port"):
        server.bind()
