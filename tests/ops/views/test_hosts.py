"""The lines of a hosts file, as the control socket gives them."""

from pathlib import Path
from typing import Any

from kproxy import settings
from kproxy.ops.views import hosts
from tests.e2e.rig import manifests
from tests.ops import surfaces


async def lines(
    folder: Path, *documents: object, namespace: str = "", name: str = "", **options: Any
) -> list[dict[str, Any]]:
    """What is shown of these objects. `options` are of the Config."""
    path = manifests.write(folder / "objects.yaml", *documents)
    async with surfaces.serving(path, ready_file=folder / "ready.json", **options) as served:
        views = hosts.views(served.observed, namespace, name)
        return [dict(view) for view in views if view is not None]


def moved(namespace: str, document: dict[str, Any]) -> dict[str, Any]:
    """A document of another namespace."""
    document["metadata"]["namespace"] = namespace
    return document


async def test_a_service_has_a_line_with_all_its_names(tmp_path: Path) -> None:
    address = manifests.fresh_ip()
    service = manifests.service("web", address, 8080)
    service["spec"]["ports"] = [
        {"name": "http", "port": 8080},
        {"name": "dns", "port": 8053, "protocol": "UDP"},
    ]

    assert await lines(tmp_path, service) == [
        {
            "namespace": "default",
            "service": "web",
            "hostname": "",
            "address": manifests.bound(address),
            "hostnames": ["web.default.svc.cluster.local", "web.default.svc", "web.default"],
            "headless": False,
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 8080, "bound_port": 8080},
                {"name": "dns", "protocol": "UDP", "port": 8053, "bound_port": 8053},
            ],
        }
    ]


async def test_lines_are_in_the_order_of_names_and_can_be_narrowed(tmp_path: Path) -> None:
    documents = [
        moved(namespace, manifests.service(name, manifests.fresh_ip(), 8080))
        for namespace in ("zoo", "default", "a")
        for name in ("web", "db")
    ]

    found = await lines(tmp_path, *documents)
    of_zoo = await lines(tmp_path, *documents, namespace="zoo")
    of_web = await lines(tmp_path, *documents, namespace="zoo", name="web")

    every = [(view["namespace"], view["service"]) for view in found]
    assert every == [(ns, name) for ns in ("a", "default", "zoo") for name in ("db", "web")]
    assert [view["service"] for view in of_zoo] == ["db", "web"]
    assert [view["service"] for view in of_web] == ["web"]


async def test_what_has_no_address_of_ours_has_no_line(tmp_path: Path) -> None:
    """An alias, a Service of another proxy, and one that has lost its address to another."""
    alias = manifests.service("alias", "", 80, type="ExternalName", externalName="example.com")
    del alias["spec"]["clusterIP"], alias["spec"]["ports"]
    foreign = manifests.service("foreign", manifests.fresh_ip(), 8080)
    foreign["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "other"}
    address = manifests.fresh_ip()
    first, second = (manifests.service(name, address, 8080) for name in ("first", "second"))

    found = await lines(tmp_path, alias, foreign, first, second)

    assert [(view["service"], view["address"]) for view in found] == [
        ("first", manifests.bound(address))
    ]


async def test_a_headless_service_has_a_line_for_each_ready_endpoint(tmp_path: Path) -> None:
    """Its endpoints are read where names are asked for."""
    service = manifests.service("db", "None", 5432)
    endpoints = manifests.endpoints("db", [("10.1.0.2", 5432), ("10.1.0.1", 5432)])
    subset, _ = endpoints["subsets"]
    subset["addresses"][0]["hostname"] = "db-0"
    subset["notReadyAddresses"] = [{"ip": "10.1.0.3"}]
    dns = settings.Listen("127.0.0.1", 0)

    found = await lines(tmp_path, service, endpoints, cluster_domain="example.org", dns=dns)

    assert [(view["address"], view["hostnames"][0]) for view in found] == [
        ("10.1.0.1", "db.default.svc.example.org"),
        ("10.1.0.2", "db-0.db.default.svc.example.org"),
    ]
