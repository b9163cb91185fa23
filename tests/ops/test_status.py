"""The shape of `kproxy get services -o json`, which scripts rely on, and of the ready file."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import manifests, sockets
from tests.ops import serving

SERVICE_KEYS = [
    "namespace",
    "name",
    "port_name",
    "protocol",
    "cluster_ip",
    "port",
    "type",
    "strategy",
    "session_affinity",
    "frontends",
    "endpoints",
    "connections",
]
FRONTEND_KEYS = ["kind", "address", "port", "bound_address", "bound_port", "state", "detail"]
ENDPOINT_KEYS = [
    "address",
    "port",
    "ready",
    "serving",
    "terminating",
    "node",
    "in_use",
    "penalized_until",
]


@pytest.fixture
def pod() -> Iterator[sockets.Namer]:
    with sockets.namers((manifests.fresh_ip(127), "pod")) as (made,):
        yield made


async def views(folder: Path, *documents: object) -> list[dict[str, Any]]:
    """What the ready file says of these objects."""
    path = manifests.write(folder / "objects.yaml", *documents)
    ready_file = folder / "ready.json"
    async with serving.serving(path, ready_file=ready_file):
        told = json.loads(ready_file.read_text())["services"]
        assert isinstance(told, list)
        return told


def endpoint_slice(name: str, port: int, *endpoints: dict[str, Any]) -> dict[str, Any]:
    """A discovery.k8s.io/v1 EndpointSlice of one unnamed port."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [{"name": "", "port": port}],
    }


async def test_a_service_port_has_exactly_these_keys(tmp_path: Path, pod: sockets.Namer) -> None:
    (view,) = await views(
        tmp_path,
        manifests.service("web", manifests.fresh_ip(), 8080),
        manifests.endpoints("web", [pod.address]),
    )

    assert list(view) == SERVICE_KEYS
    assert [list(each) for each in view["frontends"]] == [FRONTEND_KEYS]
    assert [list(each) for each in view["endpoints"]] == [ENDPOINT_KEYS]
    assert list(view["connections"]) == ["active", "total"]


async def test_a_plain_service_is_described_in_full(tmp_path: Path, pod: sockets.Namer) -> None:
    cluster_ip = manifests.fresh_ip()
    ip, port = pod.address
    (view,) = await views(
        tmp_path,
        manifests.service("web", cluster_ip, 8080),
        manifests.endpoints("web", [pod.address]),
    )

    assert view == {
        "namespace": "default",
        "name": "web",
        "port_name": "",
        "protocol": "TCP",
        "cluster_ip": cluster_ip,
        "port": 8080,
        "type": "ClusterIP",
        "strategy": "round-robin",
        "session_affinity": None,
        "frontends": [
            {
                "kind": "cluster-ip",
                "address": cluster_ip,
                "port": 8080,
                "bound_address": manifests.bound(cluster_ip),
                "bound_port": 8080,
                "state": "bound",
                "detail": "",
            }
        ],
        "endpoints": [
            {
                "address": ip,
                "port": port,
                "ready": True,
                "serving": True,
                "terminating": False,
                "node": "",
                "in_use": True,
                "penalized_until": None,
            }
        ],
        "connections": {"active": 0, "total": 0},
    }


async def test_every_kind_of_frontend_is_listed(tmp_path: Path, pod: sockets.Namer) -> None:
    web = manifests.service(
        "web", manifests.fresh_ip(), 8080, type="LoadBalancer", externalIPs=["192.0.2.77"]
    )
    web["spec"]["ports"][0]["nodePort"] = manifests.free_port("127.0.0.1")
    web["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.78"}]}}

    (view,) = await views(tmp_path, web, manifests.endpoints("web", [pod.address]))

    kinds = [each["kind"] for each in view["frontends"]]
    assert kinds == ["cluster-ip", "node-port", "external-ip", "load-balancer"]
    assert [each["bound_address"] for each in view["frontends"][1:]] == [
        "127.0.0.1",
        "127.0.2.77",
        "127.0.2.78",
    ]
    assert view["type"] == "LoadBalancer"


async def test_affinity_and_strategy_are_shown_as_configured(
    tmp_path: Path, pod: sockets.Namer
) -> None:
    web = manifests.service("web", manifests.fresh_ip(), 8080, sessionAffinity="ClientIP")
    web["metadata"]["annotations"] = {"kproxy.io/strategy": "random"}

    (view,) = await views(tmp_path, web, manifests.endpoints("web", [pod.address]))

    assert view["session_affinity"] == {"type": "ClientIP", "timeout_seconds": 10800}
    assert view["strategy"] == "random"


async def test_endpoints_are_shown_with_their_conditions_used_or_not(
    tmp_path: Path, pod: sockets.Namer
) -> None:
    ip, port = pod.address
    away = manifests.fresh_ip(127)
    (view,) = await views(
        tmp_path,
        manifests.service("web", manifests.fresh_ip(), 8080),
        endpoint_slice(
            "web",
            port,
            {"addresses": [ip], "nodeName": "node-a"},
            {
                "addresses": [away],
                "nodeName": "node-b",
                "conditions": {"ready": False, "serving": True, "terminating": True},
            },
        ),
    )

    shown = {each["address"]: each for each in view["endpoints"]}
    assert (shown[ip]["ready"], shown[ip]["node"], shown[ip]["in_use"]) == (True, "node-a", True)
    leaving = shown[away]
    assert (leaving["ready"], leaving["serving"], leaving["terminating"]) == (False, True, True)
    assert (leaving["node"], leaving["in_use"]) == ("node-b", False)


async def test_states_other_than_bound_say_why(tmp_path: Path, pod: sockets.Namer) -> None:
    cluster_ip = manifests.fresh_ip()
    given = await views(
        tmp_path,
        manifests.service("a", cluster_ip, 8080),
        manifests.endpoints("a", [pod.address]),
        manifests.service("b", cluster_ip, 8080),
        manifests.endpoints("b", [pod.address]),
        manifests.service("c", manifests.fresh_ip(), 8080),
    )

    told = {view["name"]: view["frontends"][0] for view in given}
    assert list(told) == ["a", "b", "c"]
    assert told["a"]["state"] == "bound"
    assert told["b"]["state"] == "collision"
    assert "default/a" in told["b"]["detail"]
    assert told["c"]["state"] == "no-endpoints"
    assert told["c"]["detail"] == "connections are refused"


async def test_connections_are_counted_while_open_and_in_total(
    tmp_path: Path, pod: sockets.Namer
) -> None:
    with sockets.backend(manifests.fresh_ip(127)) as silent:
        cluster_ip = manifests.fresh_ip()
        path = manifests.write(
            tmp_path / "web.yaml",
            manifests.service("web", cluster_ip, 8080),
            manifests.endpoints("web", [silent.getsockname()]),
        )
        async with serving.serving(path, ready_file=tmp_path / "ready.json") as served:

            def counted() -> object:
                return served.service_views()[0]["connections"]

            _, writer = await asyncio.open_connection(manifests.bound(cluster_ip), 8080)
            await serving.until(lambda: counted() == {"active": 1, "total": 1})

            (await asyncio.to_thread(sockets.accept, silent)).close()
            writer.close()
            await writer.wait_closed()

            await serving.until(lambda: counted() == {"active": 0, "total": 1})


async def test_an_endpoint_that_failed_shows_until_when_it_is_avoided(
    tmp_path: Path, pod: sockets.Namer
) -> None:
    dead_ip = manifests.fresh_ip(127)
    dead = (dead_ip, manifests.free_port(dead_ip))
    cluster_ip = manifests.fresh_ip()
    path = manifests.write(
        tmp_path / "web.yaml",
        manifests.service("web", cluster_ip, 8080),
        manifests.endpoints("web", [dead, pod.address]),
    )
    async with serving.serving(path, ready_file=tmp_path / "ready.json") as served:
        for _ in range(2):
            reader, writer = await asyncio.open_connection(manifests.bound(cluster_ip), 8080)
            assert await reader.read() == b"pod"
            writer.close()
            await writer.wait_closed()
        (view,) = served.service_views()

    shown = view["endpoints"]
    assert isinstance(shown, list)
    until = {each["address"]: each["penalized_until"] for each in shown}
    assert until[pod.address[0]] is None
    assert datetime.fromisoformat(until[dead_ip]).tzinfo == UTC
