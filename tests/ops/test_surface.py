"""A whole proxy, seen from outside: health, metrics and their addresses, over real sockets."""

import asyncio
import contextlib
import json
import socket
from pathlib import Path

import pytest
import structlog

from kproxy import config, errors, server
from kproxy.ops.serving import places, responder
from tests.e2e.rig import manifests, sockets
from tests.ops import recordings, surfaces


def web(folder: Path, *backends: manifests.Address) -> Path:
    """A manifest with one Service."""
    return manifests.write(
        folder / "web.yaml",
        manifests.service("web", manifests.fresh_ip(), manifests.PORT),
        manifests.endpoints("web", backends),
    )


def undated(headers: dict[str, str]) -> dict[str, str]:
    """Headers without those that differ from answer to answer."""
    return {key: headers[key] for key in headers if key not in ("Date", "Content-Length")}


def addresses(folder: Path) -> dict[str, str]:
    """What the ready file says."""
    told: dict[str, str] = json.loads((folder / "ready.json").read_text())
    return told


async def test_healthz_and_livez_answer_as_kube_proxy_does(tmp_path: Path) -> None:
    status, headers, body = recordings.answer("healthz.http.txt")
    async with surfaces.serving(
        web(tmp_path), ready_file=tmp_path / "ready.json", healthz=surfaces.anywhere()
    ):
        for path in ("/healthz", "/livez"):
            given = await surfaces.get(addresses(tmp_path)["healthz"], path)

            assert given[0] == status == 200
            assert undated(given[1]) == undated(headers)
            assert recordings.masked(given[2]) == recordings.masked(body)


async def test_proxy_mode_is_answered_as_kube_proxys_userspace_mode_did(
    tmp_path: Path,
) -> None:
    status, headers, body = recordings.answer("userspace-mode.proxyMode.http.txt")
    async with surfaces.serving(
        web(tmp_path), ready_file=tmp_path / "ready.json", metrics=surfaces.anywhere()
    ):
        given = await surfaces.get(addresses(tmp_path)["metrics"], "/proxyMode")

        assert (given[0], undated(given[1]), given[2]) == (status, undated(headers), body)
        assert given[1]["Content-Length"] == headers["Content-Length"] == "9"
        assert (await surfaces.get(addresses(tmp_path)["metrics"], "/healthz"))[2] == b"ok"


async def test_nothing_can_be_changed_and_nothing_else_is_there(tmp_path: Path) -> None:
    async with surfaces.serving(
        web(tmp_path), ready_file=tmp_path / "ready.json", metrics=surfaces.anywhere()
    ):
        address = addresses(tmp_path)["metrics"]
        for verb in ("POST", "PUT", "DELETE", "PATCH"):
            assert (await surfaces.get(address, "/metrics", verb=verb))[0] == 405
        for path in ("/", "/debug/pprof/", "/configz", "/livez/"):
            assert (await surfaces.get(address, path))[0] == 404
        status, _, body = await surfaces.get(address, "/metrics", verb="HEAD")
        assert (status, body) == (200, b"")


async def test_health_fails_before_the_first_sync_and_life_does_not(tmp_path: Path) -> None:
    served = server.Server(
        config.Config(manifests=(web(tmp_path),), grace_period=0.0, healthz=surfaces.anywhere())
    )
    with structlog.testing.capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            group.create_task(served.run())
            await asyncio.sleep(0)
            (address,) = [each for each in served.addresses().values() if each]
            early = [await surfaces.get(address, path) for path in ("/healthz", "/livez")]
            await surfaces.until(lambda: any(log["event"] == "ready" for log in logs))
            late = await surfaces.get(address, "/healthz")
            served.stop()

    assert late[0] == 200
    assert early[1][0] == 200
    assert early[0][0] in (200, 503)  # the first sync may have been faster than the question
    assert (b"0001-01-01" in early[0][2]) == (early[0][0] == 503)
    (ready,) = [log for log in logs if log["event"] == "ready"]
    assert ready["healthz"] == address
    assert "metrics" not in ready


async def test_after_a_request_to_stop_health_fails_at_once_and_liveness_does_not(
    tmp_path: Path,
) -> None:
    with sockets.backend(manifests.fresh_ip(127)) as pod:
        path = web(tmp_path, pod.getsockname())
        async with surfaces.serving(
            path,
            ready_file=tmp_path / "ready.json",
            grace_period=3600,
            healthz=surfaces.anywhere(),
            metrics=surfaces.anywhere(),
        ) as served:
            bound = addresses(tmp_path)
            (frontend,) = json.loads((tmp_path / "ready.json").read_text())["services"][0][
                "frontends"
            ]
            _, writer = await asyncio.open_connection(
                frontend["bound_address"], frontend["bound_port"]
            )
            with contextlib.closing(await asyncio.to_thread(sockets.accept, pod)):
                served.stop()

                assert (await surfaces.get(bound["healthz"], "/healthz"))[0] == 503
                assert (await surfaces.get(bound["healthz"], "/livez"))[0] == 200
                _, _, page = await surfaces.get(bound["metrics"], "/metrics")
                assert b"kproxy_open_connections 1.0" in page

                served.stop()
            writer.close()


async def test_a_taken_address_that_was_asked_for_ends_the_proxy_before_it_serves(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        served = server.Server(
            config.Config(
                manifests=(web(tmp_path),),
                healthz=places.TcpPlace("127.0.0.1", port, "--healthz-bind-address"),
                control=places.UnixPlace(tmp_path / "control.sock"),
            )
        )

        with pytest.raises(errors.KproxyError, match=f"127.0.0.1:{port}.*--healthz-bind-address"):
            await served.run()

    assert not (tmp_path / "control.sock").exists()


async def test_a_taken_default_is_logged_once_and_bound_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responder, "RETRY", 0.01)
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        structlog.testing.capture_logs() as logs,
    ):
        place = places.TcpPlace(
            "127.0.0.1", taken.getsockname()[1], "--metrics-bind-address", is_required=False
        )
        async with surfaces.serving(
            web(tmp_path), ready_file=tmp_path / "ready.json", metrics=place
        ) as served:
            assert addresses(tmp_path)["metrics"] is None
            await asyncio.sleep(0.05)  # some tries, each of which could tell it again
            taken.close()
            await surfaces.until(lambda: served.addresses()["metrics"])

            assert (await surfaces.get(f"127.0.0.1:{place.port}", "/proxyMode"))[0] == 200

    told = [log for log in logs if "metrics unavailable" in log["event"]]
    assert [log["log_level"] for log in told] == ["warning"]


async def test_every_address_is_given_back(tmp_path: Path) -> None:
    async with surfaces.serving(
        web(tmp_path),
        ready_file=tmp_path / "ready.json",
        healthz=surfaces.anywhere(),
        metrics=surfaces.anywhere(),
        control=places.UnixPlace(tmp_path / "control.sock"),
    ):
        bound = addresses(tmp_path)
        assert (tmp_path / "control.sock").is_socket()

    assert not (tmp_path / "control.sock").exists()
    for name in ("healthz", "metrics"):
        host, port = bound[name].split(":")
        assert sockets.is_refused((host, int(port)))
