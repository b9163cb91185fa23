"""The DNS of a simulated cluster: kube-dns, its answers, and the files that pods have of it."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import dns.asyncquery
import dns.message
import pytest

from kproxy import errors, settings
from kproxy.simulator import cluster
from kproxy.simulator.kinds.behaviour import pod_files
from kproxy.simulator.store import resources
from tests import isolation

PATIENCE = 60.0
WEB: list[dict[str, Any]] = [
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-0", "labels": {"app": "web"}},
        "spec": {
            "hostname": "web-0",
            "subdomain": "web",
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 8080}]}],
        },
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 8080}]},
    },
]
OF_CLUSTER = """\
nameserver 10.96.0.10
search shop.svc.cluster.local svc.cluster.local cluster.local
"""
KNOWN = pod_files.ClusterDns("10.96.0.10", "cluster.local")


def options(dns_port: int = 0) -> cluster.Options:
    """A cluster in this process's own addresses, with a DNS."""
    octet = isolation.octet()
    return cluster.Options(
        service_cidr=f"127.{octet}.0.0/24",
        pod_cidr=f"127.{octet}.64.0/20",
        load_balancer_cidr=f"127.{octet}.1.0/24",
        dns=settings.Listen("127.0.0.1", dns_port),
    )


async def ask(running: cluster.Cluster, name: str, type_: str = "A") -> list[str]:
    """What the cluster's DNS answers."""
    assert running.dns is not None
    assert running.dns.address is not None
    host, _, port = running.dns.address.rpartition(":")
    query = dns.message.make_query(name, type_)
    response = await dns.asyncquery.udp(query, host, port=int(port), timeout=PATIENCE)
    return [data.to_text() for rrset in response.answer for data in rrset]


async def test_kube_dns_is_a_service_like_others() -> None:
    async with cluster.Cluster(options()) as running:
        assert running.dns is not None
        found = running.registry.find(resources.SERVICES, "kube-dns", "kube-system")
        assert found is not None
        address = f"127.{isolation.octet()}.0.10"

        assert found["spec"]["clusterIP"] == address
        assert {(each["name"], each["protocol"]) for each in found["spec"]["ports"]} == {
            ("dns", "UDP"),
            ("dns-tcp", "TCP"),
        }
        (shown,) = running.registry.list(resources.ENDPOINT_SLICES, "kube-system")
        place = f"{shown['endpoints'][0]['addresses'][0]}:{shown['ports'][0]['port']}"
        assert place == running.dns.address
        assert await ask(running, "kube-dns.kube-system.svc.cluster.local") == [address]


async def test_without_it_there_is_no_such_service() -> None:
    plain = cluster.Options(service_cidr=f"127.{isolation.octet()}.0.0/24")
    async with cluster.Cluster(plain) as running:
        assert running.dns is None
        assert running.registry.find(resources.SERVICES, "kube-dns", "kube-system") is None


async def test_pods_have_names_and_the_address_of_the_server() -> None:
    async with cluster.Cluster(options()) as running, asyncio.timeout(PATIENCE):
        running.apply(WEB)
        name = "web-0.web.default.svc.cluster.local"
        while not (found := await ask(running, name)):  # noqa: ASYNC110  # asks a server
            await asyncio.sleep(0.01)
        async with aiohttp.ClientSession() as session:
            page = await session.get(f"http://{found[0]}:8080/etc/resolv.conf")
            text = await page.text()

        assert text.splitlines() == [
            f"nameserver 127.{isolation.octet()}.0.10",
            "search default.svc.cluster.local svc.cluster.local cluster.local",
            "options ndots:5",
        ]

        running.registry.delete(resources.SERVICES, "web", "default")
        while await ask(running, name):  # noqa: ASYNC110  # asks a server
            await asyncio.sleep(0.01)


async def test_an_address_that_is_taken_is_named() -> None:
    async with cluster.Cluster(options()) as running:
        assert running.dns is not None
        assert running.dns.address is not None
        port = int(running.dns.address.rpartition(":")[2])

        with pytest.raises(errors.KproxyError, match=f"cannot answer DNS at 127.0.0.1:{port}"):
            async with cluster.Cluster(options(port)):
                pass


def pod(**spec: Any) -> dict[str, Any]:
    """A pod in namespace `shop`."""
    return {"metadata": {"name": "p", "namespace": "shop"}, "spec": spec}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            {},
            f"{OF_CLUSTER}options ndots:5\n",
        ),
        (
            {"dnsPolicy": "ClusterFirst", "hostNetwork": True},
            "nameserver 192.0.2.1\nsearch corp.example\noptions rotate\n",
        ),
        (
            {"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": True},
            f"{OF_CLUSTER}options ndots:5\n",
        ),
        ({"dnsPolicy": "Default"}, "nameserver 192.0.2.1\nsearch corp.example\noptions rotate\n"),
        (
            {
                "dnsPolicy": "None",
                "dnsConfig": {
                    "nameservers": ["192.0.2.9"],
                    "searches": ["a.example"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
                },
            },
            "nameserver 192.0.2.9\nsearch a.example\noptions ndots:2 edns0\n",
        ),
        (
            {"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}},
            f"{OF_CLUSTER}options ndots:1\n",
        ),
    ],
)
def test_the_file_of_a_pod_follows_its_policy(
    tmp_path: Path, spec: dict[str, Any], expected: str
) -> None:
    host = tmp_path / "resolv.conf"
    host.write_text("# of the node\nnameserver 192.0.2.1\nsearch corp.example\noptions rotate\n")

    assert pod_files.resolv_conf(pod(**spec), KNOWN, host) == expected


def test_a_pod_knows_itself_by_its_names() -> None:
    named = pod_files.hosts(pod(hostname="db-0", subdomain="db"), KNOWN, ["10.244.0.3"])
    plain = pod_files.hosts(pod(), KNOWN, ["10.244.0.3", "fd00::3"])

    assert named.splitlines()[-1] == "10.244.0.3\tdb-0.db.shop.svc.cluster.local\tdb-0"
    assert plain.splitlines()[-2:] == ["10.244.0.3\tp", "fd00::3\tp"]
