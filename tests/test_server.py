"""The composition root: starts, tells, stops, and leaves nothing behind."""

import asyncio
import contextlib
import json
import os
from pathlib import Path

import pytest
import structlog

from kproxy import config, errors, server
from tests.datapath.rig.harness import descriptors
from tests.e2e.rig import daemon, manifests, sockets
from tests.ops import surfaces


def web(folder: Path, cluster_ip: str, *backends: manifests.Address) -> Path:
    """A manifest with one Service."""
    return manifests.write(
        folder / "web.yaml",
        manifests.service("web", cluster_ip, 8080),
        manifests.endpoints("web", backends),
    )


async def test_it_serves_and_after_its_end_nothing_of_it_is_left(tmp_path: Path) -> None:
    cluster_ip = manifests.fresh_ip()
    address = (manifests.bound(cluster_ip), 8080)
    ready_file = tmp_path / "ready.json"
    with sockets.namers((manifests.fresh_ip(127), "pod")) as (pod,):
        path = web(tmp_path, cluster_ip, pod.address)
        before = descriptors()
        async with surfaces.serving(path, ready_file=ready_file):
            assert await asyncio.to_thread(sockets.ask, address) == "pod"

        assert sockets.is_refused(address)
        # The file watcher's own thread closes its descriptors a moment after it was told to.
        await surfaces.until(lambda: descriptors() <= before)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not ready_file.exists()


async def test_the_ready_file_is_there_only_once_the_services_are(tmp_path: Path) -> None:
    cluster_ip = manifests.fresh_ip()
    ready_file = tmp_path / "ready.json"
    with sockets.namers((manifests.fresh_ip(127), "pod")) as (pod,):
        path = web(tmp_path, cluster_ip, pod.address)
        async with surfaces.serving(path, ready_file=ready_file) as served:
            ready = json.loads(ready_file.read_text())

            assert ready["services"] == await served.service_views()
            assert ready["pid"] == os.getpid()
            assert await asyncio.to_thread(sockets.is_open, (manifests.bound(cluster_ip), 8080))


async def test_the_ready_file_of_an_earlier_life_is_gone_before_anything_else_happens(
    tmp_path: Path,
) -> None:
    stale = tmp_path / "ready.json"
    stale.write_text('{"pid": 1}')
    path = web(tmp_path, manifests.fresh_ip())
    served = server.Server(config.Config(manifests=(path,), ready_file=stale, grace_period=0.0))
    async with asyncio.TaskGroup() as group:
        group.create_task(served.run())
        await asyncio.sleep(0)

        assert not stale.exists()

        await surfaces.until(stale.exists)
        assert json.loads(stale.read_text())["pid"] == os.getpid()
        served.stop()


async def test_each_frontend_is_reported_once_and_again_only_when_it_changes(
    tmp_path: Path,
) -> None:
    cluster_ip = manifests.fresh_ip()
    with (
        sockets.namers((manifests.fresh_ip(127), "pod")) as (pod,),
        structlog.testing.capture_logs() as logs,
    ):
        path = web(tmp_path, cluster_ip, pod.address)
        async with surfaces.serving(path, ready_file=tmp_path / "ready.json"):
            manifests.write(
                path,
                manifests.service("web", cluster_ip, 8080),
                manifests.endpoints("web", [pod.address]),
                manifests.service("new", manifests.fresh_ip(), 8080),
            )
            await surfaces.until(lambda: any(log.get("service") == "default/new" for log in logs))

    reported = [log for log in logs if log["event"] == "frontend"]
    assert [(log["service"], log["state"]) for log in reported] == [
        ("default/web", "bound"),
        ("default/new", "no-endpoints"),
    ]
    assert reported[0]["address"] == f"{cluster_ip}:8080"
    assert reported[0]["bound"] == f"{manifests.bound(cluster_ip)}:8080"


async def test_stopping_waits_for_connections_and_a_second_stop_does_not(tmp_path: Path) -> None:
    cluster_ip = manifests.fresh_ip()
    with sockets.backend(manifests.fresh_ip(127)) as pod:
        path = web(tmp_path, cluster_ip, pod.getsockname())
        starting = surfaces.serving(path, ready_file=tmp_path / "ready.json", grace_period=3600)
        async with starting as served:
            address = (manifests.bound(cluster_ip), 8080)
            reader, writer = await asyncio.open_connection(*address)
            with contextlib.closing(await asyncio.to_thread(sockets.accept, pod)):
                served.stop()
                await surfaces.until(lambda: address not in daemon.listening(os.getpid()))
                assert (await served.service_views())[0]["connections"] == {"active": 1, "total": 1}

                served.stop()

                with pytest.raises(ConnectionResetError):
                    await reader.read(1)
            writer.close()


async def test_a_connection_limit_beyond_the_open_files_is_refused_before_anything_opens(
    tmp_path: Path,
) -> None:
    path = web(tmp_path, manifests.fresh_ip())
    before = descriptors()

    with pytest.raises(errors.ConfigError, match="ulimit -n"):
        server.Server(config.Config(manifests=(path,), max_connections=10**9))

    assert descriptors() <= before


async def test_a_ready_file_that_cannot_be_written_ends_it_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    served = server.Server(
        config.Config(
            manifests=(web(tmp_path, manifests.fresh_ip()),), ready_file=folder / "ready.json"
        )
    )
    folder.rmdir()

    with pytest.raises(errors.KproxyError, match="cannot write the ready file"):
        await served.run()
