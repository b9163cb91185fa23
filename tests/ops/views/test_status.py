"""The shape of `kproxy get services -o json`, which scripts rely on, and of the ready file."""

import asyncio
import ipaddress
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kproxy import turns
from kproxy.model import addresses, names
from kproxy.model.kinds import endpoints
from kproxy.ops.serving import places
from kproxy.ops.views import status
from kproxy.plane import plane, snapshots
from tests.e2e.rig import manifests, sockets
from tests.ops import observing, surfaces

SERVICE_KEYS = [
    "namespace",
    "name",
    "port_name",
    "protocol",
    "cluster_ip",
    "port",
    "type",
    "portal",
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
    "pod",
    "weight",
    "in_use",
    "penalized_until",
    "own_address_of",
    "connections",
]


@pytest.fixture
def pod() -> Iterator[sockets.Namer]:
    with sockets.namers((manifests.fresh_ip(127), "pod")) as (made,):
        yield made


async def read_all(address: str, port: int) -> bytes:
    """What a client that says nothing is sent."""
    reader, writer = await asyncio.open_connection(address, port)
    try:
        return await reader.read()
    finally:
        writer.close()


async def views(folder: Path, *documents: object, **options: Any) -> list[dict[str, Any]]:
    """What the ready file says of these objects. `options` are of the Config."""
    path = manifests.write(folder / "objects.yaml", *documents)
    ready_file = folder / "ready.json"
    async with surfaces.serving(path, ready_file=ready_file, **options):
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
        manifests.service("web", manifests.fresh_ip(), manifests.PORT),
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
        manifests.service("web", cluster_ip, manifests.PORT),
        manifests.endpoints("web", [pod.address]),
    )

    assert view == {
        "namespace": "default",
        "name": "web",
        "port_name": "",
        "protocol": "TCP",
        "cluster_ip": cluster_ip,
        "port": manifests.PORT,
        "type": "ClusterIP",
        "portal": "loopback",
        "strategy": "round-robin",
        "session_affinity": None,
        "frontends": [
            {
                "kind": "cluster-ip",
                "address": cluster_ip,
                "port": manifests.PORT,
                "bound_address": manifests.bound(cluster_ip),
                "bound_port": manifests.PORT,
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
                "pod": "",
                "weight": 1,
                "in_use": True,
                "penalized_until": None,
                "own_address_of": None,
                "connections": {"total": 0, "active": 0, "dial_failures": 0, "share": None},
            }
        ],
        "connections": {"active": 0, "total": 0},
    }


async def test_every_kind_of_frontend_is_listed(tmp_path: Path, pod: sockets.Namer) -> None:
    web = manifests.service(
        "web", manifests.fresh_ip(), manifests.PORT, type="LoadBalancer", externalIPs=["192.0.2.77"]
    )
    web["spec"]["ports"][0]["nodePort"] = manifests.free_port("127.0.0.1")
    web["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.78"}]}}

    allowed = ipaddress.ip_network("192.0.2.77/32")
    (view,) = await views(
        tmp_path,
        web,
        manifests.endpoints("web", [pod.address]),
        external_ip_cidrs=(allowed,),
    )

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
    web = manifests.service("web", manifests.fresh_ip(), manifests.PORT, sessionAffinity="ClientIP")
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
        manifests.service("web", manifests.fresh_ip(), manifests.PORT),
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
        manifests.service("a", cluster_ip, manifests.PORT),
        manifests.endpoints("a", [pod.address]),
        manifests.service("b", cluster_ip, manifests.PORT),
        manifests.endpoints("b", [pod.address]),
        manifests.service("c", manifests.fresh_ip(), manifests.PORT),
    )

    told = {view["name"]: view["frontends"][0] for view in given}
    assert list(told) == ["a", "b", "c"]
    assert told["a"]["state"] == "bound"
    assert told["b"]["state"] == "collision"
    assert "default/a" in told["b"]["detail"]
    assert told["c"]["state"] == "no-endpoints"
    assert told["c"]["detail"].startswith("connections are refused: there is no EndpointSlice with")


async def test_connections_are_counted_while_open_and_in_total(
    tmp_path: Path, pod: sockets.Namer
) -> None:
    with sockets.backend(manifests.fresh_ip(127)) as silent:
        cluster_ip = manifests.fresh_ip()
        path = manifests.write(
            tmp_path / "web.yaml",
            manifests.service("web", cluster_ip, manifests.PORT),
            manifests.endpoints("web", [silent.getsockname()]),
        )
        async with surfaces.serving(path, ready_file=tmp_path / "ready.json") as served:

            async def is_counted(active: int) -> bool:
                (view,) = await served.service_views()
                return view["connections"] == {"active": active, "total": 1}

            _, writer = await asyncio.open_connection(manifests.bound(cluster_ip), manifests.PORT)
            await surfaces.until(lambda: is_counted(1))

            (await asyncio.to_thread(sockets.accept, silent)).close()
            writer.close()
            await writer.wait_closed()

            await surfaces.until(lambda: is_counted(0))


async def test_an_endpoint_that_failed_shows_until_when_it_is_avoided(
    tmp_path: Path, pod: sockets.Namer
) -> None:
    dead_ip = manifests.fresh_ip(127)
    dead = (dead_ip, manifests.free_port(dead_ip))
    cluster_ip = manifests.fresh_ip()
    path = manifests.write(
        tmp_path / "web.yaml",
        manifests.service("web", cluster_ip, manifests.PORT),
        manifests.endpoints("web", [dead, pod.address]),
    )
    async with surfaces.serving(path, ready_file=tmp_path / "ready.json") as served:
        for _ in range(2):
            reader, writer = await asyncio.open_connection(
                manifests.bound(cluster_ip), manifests.PORT
            )
            assert await reader.read() == b"pod"
            writer.close()
            await writer.wait_closed()
        (view,) = await served.service_views()

    shown = view["endpoints"]
    assert isinstance(shown, list)
    by_address = {each["address"]: each for each in shown}
    well, ill = by_address[pod.address[0]], by_address[dead_ip]
    assert well["penalized_until"] is None
    assert well["in_use"] is True
    assert well["connections"]["total"] == 2
    assert well["connections"]["dial_failures"] == 0
    assert well["connections"]["share"] == 1.0
    assert datetime.fromisoformat(ill["penalized_until"]).tzinfo == UTC
    assert ill["in_use"] is False, "no client is sent there while there is another"
    assert ill["connections"] == {"total": 0, "active": 0, "dial_failures": 1, "share": 0.0}


async def test_a_service_whose_every_client_is_refused_has_no_endpoint_in_use(
    tmp_path: Path,
) -> None:
    dead_ip, cluster_ip = manifests.fresh_ip(127), manifests.fresh_ip()
    path = manifests.write(
        tmp_path / "web.yaml",
        manifests.service("web", cluster_ip, 8080),
        manifests.endpoints("web", [(dead_ip, manifests.free_port(dead_ip))]),
    )
    async with surfaces.serving(path, ready_file=tmp_path / "ready.json") as served:
        with pytest.raises(ConnectionResetError):
            await read_all(manifests.bound(cluster_ip), 8080)
        (view,) = await served.service_views()
    shown = view["endpoints"]
    assert isinstance(shown, list)
    assert [(each["ready"], each["in_use"]) for each in shown] == [(True, False)]


@pytest.mark.parametrize("surface", ["healthz", "metrics"])
async def test_its_own_health_and_metrics_are_no_endpoints(tmp_path: Path, surface: str) -> None:
    """H15. Whatever loopback address they are named by, if they listen on every address."""
    cluster_ip = manifests.fresh_ip()
    port = manifests.free_port("0.0.0.0")
    path = manifests.write(
        tmp_path / "web.yaml",
        manifests.service("web", cluster_ip, 8080),
        manifests.endpoints("web", [("127.0.0.1", port), (manifests.fresh_ip(127), port)]),
    )
    place = places.TcpPlace("0.0.0.0", port, "--flag", is_required=True)
    async with surfaces.serving(
        path,
        ready_file=tmp_path / "ready.json",
        healthz=place if surface == "healthz" else None,
        metrics=place if surface == "metrics" else None,
    ) as served:
        with pytest.raises(ConnectionResetError):
            await read_all(manifests.bound(cluster_ip), 8080)
        (view,) = await served.service_views()
    endpoints = view["endpoints"]
    assert isinstance(endpoints, list)
    assert len(endpoints) == 2
    for shown in endpoints:
        assert (shown["in_use"], shown["own_address_of"]) == (False, f"kproxy's {surface}")
        assert shown["connections"]["dial_failures"] == 0


async def test_connections_of_a_service_that_is_gone_are_shown(
    tmp_path: Path, pod: sockets.Namer
) -> None:
    """They go on, and who looks for what is open must find them."""
    cluster_ip = manifests.fresh_ip()
    with sockets.backend(manifests.fresh_ip(127)) as silent:
        path = manifests.write(
            tmp_path / "web.yaml",
            manifests.service("web", cluster_ip, 8080),
            manifests.endpoints("web", [silent.getsockname()]),
        )
        async with surfaces.serving(path, ready_file=tmp_path / "ready.json") as served:
            _, writer = await asyncio.open_connection(manifests.bound(cluster_ip), 8080)
            seen = served.observed

            async def shown(**asked: Any) -> list[str]:
                await seen.plane.refresh(plane.Part.CONNECTIONS, turns.Turns())
                rules = status.select(seen, **asked)
                views = status.connection_views(
                    seen, rules, lambda service: asked.get("name", "") in ("", service.name)
                )
                return [f"{view['namespace']}/{view['service']}" for view in views if view]

            await surfaces.until(shown)
            manifests.write(
                tmp_path / "web.yaml",
                manifests.service("db", manifests.fresh_ip(), 8080),
                manifests.endpoints("db", [pod.address]),
            )
            await surfaces.until(lambda: not list(status.select(seen, name="web")))
            assert await shown() == await shown(name="web") == ["default/web"]
            assert await shown(name="db") == []
            writer.close()
            await writer.wait_closed()


async def test_a_service_of_many_endpoints_is_shown_in_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = tuple(
        endpoints.Endpoint(addresses.SocketAddress(f"10.1.{number // 250}.{number % 250}", 80))
        for number in range(1000)
    )
    with observing.proxy() as proxy:
        proxy.serve("web")
        (plan,) = proxy.proxier.known()
        asked = 0
        ask = proxy.plane.endpoint

        def counted(
            name: names.ServicePortName, backend: addresses.SocketAddress
        ) -> snapshots.Endpoint:
            nonlocal asked
            asked += 1
            return ask(name, backend)

        monkeypatch.setattr(proxy.plane, "endpoint", counted)
        steps = []
        for view in status.service_views(proxy.seen, [replace(plan, found=found)]):
            steps.append((asked, view))
            asked = 0

    *pauses, (last, whole) = steps
    assert max(last, *(count for count, _ in pauses)) <= 100
    assert [view for _, view in pauses] == [None] * len(pauses)
    assert whole is not None
    listed = whole["endpoints"]
    assert isinstance(listed, list)
    assert [each["address"] for each in listed] == [each.backend.address for each in found]
