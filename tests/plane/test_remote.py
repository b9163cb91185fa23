"""A data plane in another process does what one in this process does; `--plane` tries the rest."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kproxy import errors, events, turns
from kproxy.datapath import data_path
from kproxy.model import addresses, forwarding
from kproxy.plane import plane
from tests.e2e.rig import daemon, manifests, sockets
from tests.ops import surfaces
from tests.plane import remote
from tests.reconcile import builders

WEB = builders.port_of("web")
FRONTEND = forwarding.Frontend(forwarding.FrontendKind.CLUSTER_IP, "10.0.9.1", 80)
EVERYTHING = plane.Part.PORTS | plane.Part.BYTES | plane.Part.AFFINITY | plane.Part.CONNECTIONS


def free_address() -> addresses.SocketAddress:
    return addresses.SocketAddress(*manifests.free_address())


def opening(at: addresses.SocketAddress) -> forwarding.OpenFrontend:
    return forwarding.OpenFrontend(WEB, FRONTEND, forwarding.PortalAddress(*at), at)


@pytest.fixture
async def feed() -> events.Feed:
    return events.Feed()


@pytest.fixture
async def served(feed: events.Feed) -> AsyncIterator[remote.RemotePlane]:
    made = remote.RemotePlane(feed=feed)
    try:
        yield made
    finally:
        made.close()


def pools(backend: addresses.SocketAddress) -> tuple[forwarding.Pool, ...]:
    """One backend."""
    return (forwarding.Pool(forwarding.Scope.CLUSTER, addresses.Family.IPV4, (backend,)),)


async def test_it_serves_reports_and_shows_what_happened(
    served: remote.RemotePlane, feed: events.Feed
) -> None:
    reports: list[forwarding.Report] = []
    served.subscribe(reports.append)
    address = free_address()
    with (
        sockets.backend(manifests.fresh_ip(127)) as pod,
        sockets.backend(manifests.fresh_ip(127)) as holder,
    ):
        taken = addresses.SocketAddress(*holder.getsockname())
        backend = addresses.SocketAddress(*pod.getsockname())
        sticky = forwarding.Policy(affinity_seconds=60)
        served.send(forwarding.SetBackends(WEB, sticky, pools(backend)))
        served.send(opening(address))
        served.send(opening(taken))
        assert reports == [], "the answers are still to come"
        await surfaces.until(lambda: len(reports) == 2)
        assert reports == [
            forwarding.Opened(forwarding.PortalAddress(*address)),
            forwarding.OpenFailed(forwarding.PortalAddress(*taken), "Address already in use"),
        ]
        _, writer = await asyncio.open_connection(*address)
        writer.write(b"hello")
        (await asyncio.to_thread(sockets.accept, pod)).close()

        async def is_reached() -> bool:
            await served.refresh(EVERYTHING, turns.Turns())
            return served.endpoint(WEB, backend).total == 1

        await surfaces.until(is_reached)
        port = served.service_port(WEB)
        assert port is not None
        assert (port.accepted, port.reached, port.affinity_entries) == (1, 1, 1)
        (binding,) = served.affinity(WEB, 10)
        assert (binding.client, binding.backend) == ("127.0.0.1", backend)
        writer.close()
    kinds = [type(fact).__name__ for fact in feed.recent()]
    assert kinds == ["ServiceChanged", "EndpointsChanged", "FrontendOpened", "FrontendFailed"]


async def test_what_it_cannot_carry_is_refused_in_words() -> None:
    with pytest.raises(errors.ConfigError, match="ulimit -n"):
        remote.RemotePlane(data_path.Limits(max_connections=10**9))


async def test_a_connection_is_shown_and_reset_when_the_grace_is_over(
    served: remote.RemotePlane,
) -> None:
    address = free_address()
    with sockets.backend(manifests.fresh_ip(127)) as pod:
        backend = addresses.SocketAddress(*pod.getsockname())
        served.send(forwarding.SetBackends(WEB, forwarding.Policy(), pools(backend)))
        opened = asyncio.Event()
        served.subscribe(lambda _: opened.set())
        served.send(opening(address))
        await opened.wait()
        reader, writer = await asyncio.open_connection(*address)
        with contextlib.closing(await asyncio.to_thread(sockets.accept, pod)):
            await served.refresh(EVERYTHING, turns.Turns())
            (view,) = filter(None, served.connections(lambda name: name == WEB))
            assert view.frontend == address

            assert await served.drain(0.0) == 1

            with pytest.raises(ConnectionResetError):
                await reader.read(1)
        writer.close()


def test_a_proxy_whose_data_plane_ends_says_so_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "PROGRAM", (sys.executable, "-m", "tests.plane.program"))
    monkeypatch.setitem(daemon.ENVIRONMENT, "PYTHONPATH", str(remote.ROOT))
    path = manifests.write(
        tmp_path / "web.yaml", manifests.service("web", manifests.fresh_ip(), 80)
    )
    with daemon.running(tmp_path, path) as proxy:
        (data_plane,) = daemon.children(proxy.pid)

        os.kill(data_plane, signal.SIGKILL)

        assert proxy.wait() == errors.KproxyError.exit_code
        assert proxy.log().endswith(f"kproxy: the data plane (process {data_plane}) has ended\n")
        assert "Traceback" not in proxy.log()
        assert not proxy.ready_file.exists()
