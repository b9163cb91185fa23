"""Connections that must not live for ever: annotations of a Service, edits, and real servers.

Cases: C03 of docs/faults.md.

Behaviour: row 46 of docs/behaviour.md.
"""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli import inside
from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, programs, sockets

pytestmark = pytest.mark.xdist_group("time")

METRICS = ("--metrics-bind-address", "127.0.0.1:0")


@pytest.fixture
def pods() -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(sockets.backend(manifests.fresh_ip(127))) for _ in range(2)]


def service(cluster_ip: str, **annotations: str) -> dict[str, Any]:
    """A Service called web with annotations of kproxy's own; "_" stands for "-"."""
    made = manifests.service("web", cluster_ip, manifests.PORT)
    made["metadata"]["annotations"] = {
        f"kproxy.io/{key.replace('_', '-')}": value for key, value in annotations.items()
    }
    return made


def slice_of(*pods: socket.socket, **conditions: bool) -> dict[str, Any]:
    """An EndpointSlice of web; each pod has its own, for their ports differ."""
    (pod,) = pods
    address, port = pod.getsockname()
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"web-{port}-{address.replace('.', '-')}",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": port}],
        "endpoints": [{"addresses": [address], "conditions": conditions}],
    }


def ended(proxy: daemon.Daemon, result: str) -> float:
    """How many connections have ended so."""
    return sum(proxy.samples("kproxy_connections_total", result=result))


def is_ended_in_order(through: sockets.Stream) -> None:
    """The pod meets the end, ends itself, and its client meets a clean end."""
    assert sockets.read_all(through.server) == b""
    through.server.close()
    assert sockets.read_all(through.client) == b""


def test_a_connection_that_is_too_old_ends_in_order(
    tmp_path: Path, run: conftest.Run, pods: list[socket.socket]
) -> None:
    path = manifests.write(
        tmp_path / "web.yaml",
        service(manifests.fresh_ip(), max_connection_age="1s"),
        slice_of(pods[0]),
    )
    proxy = run(path, *METRICS)
    # Nothing is said on it: it may be too old as soon as this process has seen it.
    with (
        contextlib.closing(sockets.connect(proxy.address("web"))) as client,
        contextlib.closing(sockets.accept(pods[0])) as server,
    ):
        is_ended_in_order(sockets.Stream(client, server))
    daemon.wait_until(lambda: ended(proxy, "A/H") == 1, "it is counted")


def test_a_kept_alive_connection_to_nginx_is_closed_and_the_next_one_is_served(
    tmp_path: Path, run: conftest.Run
) -> None:
    ip = manifests.fresh_ip(127)
    address = ip, manifests.free_port(ip)
    cluster_ip, endpoints = manifests.fresh_ip(), manifests.endpoints("web", [address])
    path = manifests.write(tmp_path / "web.yaml", service(cluster_ip), endpoints)
    with programs.nginx(tmp_path / "nginx", address):
        proxy = run(path, *METRICS)
        for _ in range(2):
            manifests.write(path, service(cluster_ip), endpoints)
            daemon.wait_until(lambda: not has_age(proxy), "connections may be of any age")
            with contextlib.closing(sockets.connect(proxy.address("web"))) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
                answer = b""
                while not answer.endswith(f"\r\n\r\n{ip}\n".encode()):
                    some = client.recv(65536)
                    assert some, answer
                    answer += some
                assert answer.startswith(b"HTTP/1.1 200")
                manifests.write(path, service(cluster_ip, max_connection_age="1s"), endpoints)
                assert sockets.read_all(client) == b""
    daemon.wait_until(lambda: ended(proxy, "A/H") == 2, "both are counted")


def has_age(proxy: daemon.Daemon) -> bool:
    """Whether connections of the Service may be too old."""
    return "Connection Age" in kproxy(proxy, "describe", "svc/web")


def test_an_idle_client_of_redis_is_moved_on(tmp_path: Path, run: conftest.Run) -> None:
    ip = manifests.fresh_ip(127)
    address = ip, manifests.free_port(ip)
    web = service(manifests.fresh_ip(), on_endpoint_removed="drain:10m")
    path = manifests.write(tmp_path / "web.yaml", web, manifests.endpoints("web", [address]))
    with programs.redis(tmp_path / "redis", address):
        proxy = run(path, *METRICS)
        with contextlib.closing(sockets.connect(proxy.address("web"))) as client:
            client.sendall(b"PING\r\n")
            assert sockets.read_exactly(client, 7) == b"+PONG\r\n"
            manifests.write(path, web)
            assert sockets.read_all(client) == b""
    daemon.wait_until(lambda: ended(proxy, "E/H") == 1, "it is counted")


def test_the_connections_of_a_pod_that_terminates_drain_and_those_of_others_stay(
    tmp_path: Path, run: conftest.Run, pods: list[socket.socket]
) -> None:
    """A rolling update, with clients that would never leave by themselves."""
    web = service(manifests.fresh_ip(), on_endpoint_removed="drain:10m")
    path = manifests.write(tmp_path / "web.yaml", web, slice_of(pods[0]))
    proxy = run(path, *METRICS)
    with sockets.stream(proxy.address("web"), pods[0]) as old:
        manifests.write(path, web, slice_of(pods[0], ready=False), slice_of(pods[1]))
        # The new pod is served; the old one is not ready, which is not removed.
        with sockets.reaching(proxy.address("web"), pods[1]) as new:
            old.check()
            ending = slice_of(pods[0], ready=False, serving=True, terminating=True)
            manifests.write(path, web, ending, slice_of(pods[1]))
            is_ended_in_order(old)
            new.check()
    daemon.wait_until(lambda: ended(proxy, "E/H") >= 1, "it is counted")


def test_the_connections_of_a_pod_that_is_gone_are_reset_where_the_service_says_so(
    tmp_path: Path, run: conftest.Run, pods: list[socket.socket]
) -> None:
    """Not while it terminates: it has that time to finish what it began."""
    web = service(manifests.fresh_ip(), on_endpoint_removed="reset")
    path = manifests.write(tmp_path / "web.yaml", web, slice_of(pods[0]))
    proxy = run(path, *METRICS)
    with sockets.stream(proxy.address("web"), pods[0]) as old:
        ending = slice_of(pods[0], ready=False, serving=True, terminating=True)
        manifests.write(path, web, ending, slice_of(pods[1]))
        with sockets.reaching(proxy.address("web"), pods[1]) as new:
            old.check()
            manifests.write(path, web, slice_of(pods[1]))
            with pytest.raises(ConnectionResetError):
                old.client.recv(1)
            new.check()
    daemon.wait_until(lambda: ended(proxy, "E/X") >= 1, "it is counted")


def test_an_annotation_that_comes_later_holds_for_connections_that_are_open(
    tmp_path: Path, run: conftest.Run, pods: list[socket.socket]
) -> None:
    cluster_ip = manifests.fresh_ip()
    path = manifests.write(tmp_path / "web.yaml", service(cluster_ip), slice_of(pods[0]))
    proxy = run(path, *METRICS)
    with sockets.stream(proxy.address("web"), pods[0]) as through:
        manifests.write(path, service(cluster_ip, max_connection_age="1s"), slice_of(pods[0]))
        is_ended_in_order(through)
    daemon.wait_until(lambda: ended(proxy, "A/H") == 1, "it is counted")


def kproxy(proxy: daemon.Daemon, *arguments: str) -> str:
    """What a command prints of this proxy."""
    done = inside.run(*arguments, "--control", proxy.ready["control"])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_a_service_asks_for_is_described_and_what_becomes_of_connections_is_shown(
    tmp_path: Path, run: conftest.Run, pods: list[socket.socket]
) -> None:
    web = service(
        manifests.fresh_ip(),
        max_connection_age="1h30m",
        on_endpoint_removed="drain:10m",
        proxy_protocol="none",
    )
    path = manifests.write(tmp_path / "web.yaml", web, slice_of(pods[0]))
    proxy = run(path)
    lines = kproxy(proxy, "describe", "svc/web").splitlines()
    assert "Connection Age:   at most 1h30m, and 30s to end" in lines
    assert "Endpoint Removed: connections drain for 10m" in lines
    assert not any(line.startswith("PROXY Protocol") for line in lines)

    with sockets.stream(proxy.address("web"), pods[0]) as through:
        through.client.sendall(b"?")  # never answered: there is no quiet moment
        assert through.server.recv(1) == b"?"
        manifests.write(path, web)
        daemon.wait_until(
            lambda: " draining " in kproxy(proxy, "get", "connections"), "it is shown to drain"
        )
        daemon.wait_until(
            lambda: " ConnectionsMoved " in kproxy(proxy, "get", "events"), "it is an event"
        )
