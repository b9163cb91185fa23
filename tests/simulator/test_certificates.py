"""TLS to the simulated API server, with every client that is to come."""

import asyncio
import base64
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import kubernetes
import pytest
import yaml
from kubernetes import aio as kubernetes_aio

from kproxy.demo import stage
from kproxy.simulator import certificates, cluster
from kproxy.simulator.api import apiserver
from kproxy.sources.access import rest_config
from kproxy.sources.api import informer
from tests.simulator.objects import new_registry

PATH = "/api/v1/namespaces"


@pytest.fixture
async def running() -> AsyncIterator[cluster.Cluster]:
    with stage.claimed_ranges() as ranges:
        options = cluster.Options(
            service_cidr=ranges.services,
            pod_cidr=ranges.pods,
            load_balancer_cidr=ranges.load_balancers,
        )
        async with cluster.Cluster(options) as made:
            yield made


@pytest.fixture
def kubeconfig(running: cluster.Cluster, tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(running.kubeconfig))
    return path


def made(now: datetime | None = None) -> certificates.Certificate:
    return certificates.self_signed(["127.0.0.1"], ["localhost"], now or datetime.now(UTC))


def strict(pem: bytes) -> ssl.SSLContext:
    """What verifies as Python does from 3.13 on."""
    context = ssl.create_default_context(cadata=pem.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def shown(server: certificates.Certificate, verifier: ssl.SSLContext, name: str) -> None:
    """A handshake in memory. Raises SSLError when the client does not accept what it is shown."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        verifier.wrap_bio(to_client, to_server, server_hostname=name),
        server.server_context().wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
    assert not ends


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_strict_verifier_accepts_it_for_its_names(name: str) -> None:
    certificate = made()
    shown(certificate, strict(certificate.pem), name)


@pytest.mark.parametrize(
    ("reason", "name", "age"),
    [
        ("IP address mismatch", "127.0.0.2", timedelta()),
        ("Hostname mismatch", "kubernetes.example", timedelta()),
        ("certificate has expired", "localhost", certificates.LIFETIME + timedelta(hours=2)),
        ("not yet valid", "localhost", timedelta(hours=-2)),
    ],
)
def test_it_is_good_for_nothing_else(reason: str, name: str, age: timedelta) -> None:
    certificate = made(datetime.now(UTC) - age)
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        shown(certificate, strict(certificate.pem), name)


def test_the_key_of_another_is_not_accepted() -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shown(made(), strict(made().pem), "localhost")


def test_the_key_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    certificate = made()
    certificate.server_context()
    assert list(tmp_path.iterdir()) == []
    assert "PRIVATE KEY" not in repr(certificate)


async def test_a_restart_keeps_port_and_certificate() -> None:
    certificate = made()
    server = apiserver.ApiServer(new_registry(), tokens={"secret": "a"}, certificate=certificate)
    headers = {"Authorization": "Bearer secret"}
    connector = aiohttp.TCPConnector(ssl=strict(certificate.pem), force_close=True)
    urls = set()
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        for _ in range(2):
            async with server, session.get(server.url + PATH) as answer:
                assert answer.status == 200
                urls.add(server.url)
    assert len(urls) == 1
    assert urls.pop().startswith("https://127.0.0.1:")


async def test_a_client_that_never_says_goodbye_is_not_waited_for() -> None:
    certificate = made()
    server = apiserver.ApiServer(new_registry(), tokens={"secret": "a"}, certificate=certificate)

    def connect() -> socket.socket:
        """A connection whose TLS is forgotten about as soon as it is established."""
        plain = socket.create_connection((server.address, server.port), timeout=30)
        verifier = strict(certificate.pem)
        with verifier.wrap_socket(plain, server_hostname="localhost") as secured:
            return socket.socket(fileno=secured.detach())

    async with server:
        client_end = await asyncio.to_thread(connect)
    with contextlib.closing(client_end), contextlib.suppress(ConnectionResetError):
        client_end.settimeout(60)
        while client_end.recv(4096):
            pass


async def test_the_official_client(running: cluster.Cluster, kubeconfig: Path) -> None:
    def count() -> int:
        with kubernetes.config.new_client_from_config(str(kubeconfig)) as api:  # type: ignore[no-untyped-call]
            return len(kubernetes.client.CoreV1Api(api).list_node().items)

    assert await asyncio.to_thread(count) == running.options.nodes


async def test_the_official_asynchronous_client(running: cluster.Cluster, kubeconfig: Path) -> None:
    connecting = kubernetes_aio.config.new_client_from_config(str(kubeconfig))  # type: ignore[no-untyped-call]
    async with await connecting as api:
        listed = await kubernetes_aio.client.CoreV1Api(api).list_node()
        assert len(listed.items) == running.options.nodes


async def test_the_informer(running: cluster.Cluster, kubeconfig: Path) -> None:
    changed = asyncio.Event()
    access = await asyncio.to_thread(rest_config.load, str(kubeconfig), None)
    followed = informer.InformerSource(
        access,
        on_problem=lambda problem: pytest.fail(str(problem)),
        allow_loopback=True,
    )
    followed.store.subscribe(lambda _: changed.set())
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        task = group.create_task(followed.run())
        await changed.wait()
        task.cancel()
    assert followed.has_synced
    assert access.server == running.url


async def test_clients_that_do_not_trust_it_or_speak_no_tls(running: cluster.Cluster) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(running.url + PATH)
        with pytest.raises(aiohttp.ClientError):
            await session.get(running.url.replace("https", "http") + PATH)
        entry = running.kubeconfig["clusters"][0]["cluster"]
        trusting = strict(base64.b64decode(entry["certificate-authority-data"]))
        async with session.get(running.url + PATH, ssl=trusting) as answer:
            assert answer.status == 401
