"""The routes of the local portal: which there are, and that other programs' stay as they are."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kproxy.model.addresses import Family
from kproxy.model.names import Protocol
from tests.e2e.local import catalogue, conftest
from tests.e2e.local.conftest import Way
from tests.e2e.rig import daemon, manifests, namespaces, pods
from tests.e2e.rig.pods import REFUSED
from tests.e2e.rig.published import Service

pytestmark = [
    pytest.mark.netns,
    pytest.mark.extra,
    namespaces.needs_root,
    namespaces.needs_programs,
]

BOTH = {"pod-a", "pod-b"}

_ALIENS = (
    "route add local 10.97.0.0/16 dev lo",
    "route add local 10.96.77.0/24 dev lo proto 99",
    "route add local 198.51.100.7/32 dev lo proto static",
    "route add blackhole 10.98.0.0/16",
    "route add local fd00:10:97::/112 dev lo",
    "route add local fd00:10:96:1::/112 dev lo proto 99",
)
"""Routes of other programs, some of which lie in or beside what kproxy serves."""


@pytest.fixture
def network() -> Iterator[namespaces.Network]:
    """A network with pods, and other programs' routes on node-a."""
    with namespaces.network() as made, pods.pods(made):
        made.node_a.ip(*_ALIENS)
        yield made


@pytest.fixture(params=Way, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    """Each way of the portal."""
    asked: Way = request.param
    return asked


def routes(place: namespaces.Namespace) -> list[dict[str, Any]]:
    """Every route of every table, as the kernel has them, whether its link is up yet or not."""
    found = []
    for family in ("-4", "-6"):
        listed = place.run("ip", "-j", "-N", family, "route", "show", "table", "all")
        found += [{**each, "flags": []} for each in json.loads(listed)]
    return sorted(found, key=str)


def added(before: list[dict[str, Any]], place: namespaces.Namespace) -> set[str]:
    """Where routes lead that have come since; all earlier ones are still there."""
    now = routes(place)
    assert [each for each in before if each not in now] == []
    return {each["dst"] for each in now if each not in before}


def written(folder: Path, *services: Service) -> Path:
    """Manifests of these Services."""
    objects = [each for service in services for each in service.objects()]
    return manifests.write(folder / "services.yaml", *objects)


def test_a_range_is_one_route(tmp_path: Path, network: namespaces.Network, way: Way) -> None:
    before = routes(network.node_a)
    path = written(tmp_path, catalogue.WEB, catalogue.EXTERNAL, catalogue.NAMES)
    flags = (*conftest.RANGES, *way.flags)
    with conftest.on_node(tmp_path / "k", network, "node-a", path, *flags) as proxy:
        externals = {*catalogue.outside(12), *catalogue.outside_b(12)}
        assert added(before, network.node_a) == {"10.96.0.0/16", "fd00:10:96::/112"} | externals
        assert proxy.stop() == 0
    assert routes(network.node_a) == before


def test_without_a_range_each_address_is_a_route(
    tmp_path: Path, network: namespaces.Network, way: Way
) -> None:
    before = routes(network.node_a)
    path = written(tmp_path, catalogue.WEB)
    with conftest.on_node(tmp_path / "k", network, "node-a", path, *way.flags):
        assert added(before, network.node_a) == set(catalogue.WEB.cluster_ips)
        assert pods.met(network.pod_a, catalogue.WEB.at(Family.IPV6)) == BOTH
        written(tmp_path, catalogue.STICKY)
        daemon.wait_until(
            lambda: added(before, network.node_a) == set(catalogue.STICKY.cluster_ips),
            "the routes are those of the other Service",
        )
    assert routes(network.node_a) == before


def test_another_start_takes_over_what_a_killed_one_left(
    tmp_path: Path, network: namespaces.Network, way: Way
) -> None:
    before = routes(network.node_a)
    path = written(tmp_path, catalogue.WEB, catalogue.EXTERNAL, catalogue.NODE_PORT)
    flags = (*conftest.RANGES, *way.flags)
    with conftest.on_node(tmp_path / "1", network, "node-a", path, *flags) as proxy:
        proxy.signal(signal.SIGKILL)
        proxy.wait()
    assert added(before, network.node_a)
    written(tmp_path, catalogue.WEB)
    with conftest.on_node(tmp_path / "2", network, "node-a", path, *flags) as proxy:
        assert added(before, network.node_a) == {"10.96.0.0/16", "fd00:10:96::/112"}
        for family in Family:
            for protocol in (Protocol.TCP, Protocol.UDP):
                assert pods.met(network.pod_a, catalogue.WEB.at(family), protocol) == BOTH
                gone = catalogue.NODE_PORT.at(family)
                assert pods.meet(network.pod_a, gone, protocol) == REFUSED
        assert proxy.stop() == 0
    assert routes(network.node_a) == before


def test_cleanup_removes_what_a_killed_one_left(
    tmp_path: Path, network: namespaces.Network, way: Way
) -> None:
    before = routes(network.node_a)
    path = written(tmp_path, catalogue.WEB, catalogue.EXTERNAL)
    flags = (*conftest.RANGES, *way.flags)
    with conftest.on_node(tmp_path / "k", network, "node-a", path, *flags) as proxy:
        proxy.signal(signal.SIGKILL)
        proxy.wait()
    assert added(before, network.node_a)
    network.node_a.run(*daemon.PROGRAM, "run", "--cleanup")
    assert routes(network.node_a) == before
    network.node_a.run(*daemon.PROGRAM, "run", "--cleanup")  # nothing is left to do


def test_cleanup_leaves_a_running_proxy_alone(
    tmp_path: Path, network: namespaces.Network, way: Way
) -> None:
    path = written(tmp_path, catalogue.WEB)
    flags = (*conftest.RANGES, *way.flags)
    with conftest.on_node(tmp_path / "k", network, "node-a", path, *flags) as proxy:
        before = routes(network.node_a)
        with network.node_a.inside():
            cleanup = subprocess.run(
                [*daemon.PROGRAM, "run", "--cleanup"], capture_output=True, text=True, check=False
            )
        assert cleanup.returncode == 1
        assert str(proxy.pid) in cleanup.stderr
        assert routes(network.node_a) == before
        assert pods.met(network.pod_a, catalogue.WEB.at(Family.IPV4)) == BOTH


def test_a_second_proxy_on_the_node_is_refused(
    tmp_path: Path, network: namespaces.Network, way: Way
) -> None:
    path = written(tmp_path, catalogue.WEB)
    flags = (*conftest.RANGES, *way.flags)
    with conftest.on_node(tmp_path / "k", network, "node-a", path, *flags) as proxy:
        before = routes(network.node_a)
        with (
            pytest.raises(daemon.NotInTimeError, match=str(proxy.pid)),
            conftest.on_node(tmp_path / "l", network, "node-a", path, *flags),
        ):
            pass
        assert routes(network.node_a) == before
        assert pods.met(network.pod_a, catalogue.WEB.at(Family.IPV4)) == BOTH


def test_node_ports_follow_the_addresses_of_the_node(
    tmp_path: Path, network: namespaces.Network, way: Way
) -> None:
    path = written(tmp_path, catalogue.NODE_PORT)
    late = namespaces.Host("192.0.2.3", "2001:db8::3")
    flags = (*conftest.RANGES, *way.flags)
    with conftest.on_node(tmp_path / "k", network, "node-a", path, *flags):
        for family in Family:
            for protocol in (Protocol.TCP, Protocol.UDP):
                address = catalogue.NODE_PORT.on(late, family)
                network.node_a.ip(f"address add {address[0]}/24 dev eth0")
                pods.wait_met(network.client, address, protocol, BOTH)
                network.node_a.ip(f"address del {address[0]}/24 dev eth0")
                always = catalogue.NODE_PORT.on(namespaces.NODE_A, family)
                assert pods.met(network.client, always, protocol) == BOTH


def test_two_services_of_one_address(tmp_path: Path, network: namespaces.Network, way: Way) -> None:
    """The older one has it; the other gets it as soon as the older one is gone."""
    shared = {"externalIPs": [*catalogue.outside(30)]}
    older, younger = (
        Service(
            name=name,
            number=number,
            pods=(pod,),
            spec=shared,
            metadata={"creationTimestamp": created},
        )
        for name, number, pod, created in (
            ("older", 32, "pod-a", "2026-01-01T00:00:00Z"),
            ("younger", 31, "pod-b", "2026-01-02T00:00:00Z"),
        )
    )
    path = written(tmp_path, older, younger)
    flags = (*conftest.RANGES, *way.flags)
    with conftest.on_node(tmp_path / "k", network, "node-a", path, *flags):
        for host in catalogue.outside(30):
            for protocol in (Protocol.TCP, Protocol.UDP):
                assert pods.met(network.client, (host, 80), protocol) == {"pod-a"}
        written(tmp_path, younger)
        for host in catalogue.outside(30):
            for protocol in (Protocol.TCP, Protocol.UDP):
                pods.wait_met(network.client, (host, 80), protocol, {"pod-b"})


def test_connections_outlive_their_service_and_keep_its_route(
    tmp_path: Path, network: namespaces.Network, way: Way
) -> None:
    before = routes(network.node_a)
    path = written(tmp_path, catalogue.WEB)
    with conftest.on_node(tmp_path / "k", network, "node-a", path, *way.flags):
        streams = [pods.connect(network.pod_a, catalogue.WEB.at(family)) for family in Family]
        for stream in streams:
            assert pods.name(stream) in BOTH
        written(tmp_path, catalogue.NODE_PORT)
        pods.wait_met(network.pod_a, catalogue.NODE_PORT.at(Family.IPV6), Protocol.TCP, BOTH)
        for stream in streams:
            assert pods.exchange(stream, b"ping") == b"ping"
            stream.close()
        daemon.wait_until(
            lambda: added(before, network.node_a) == set(catalogue.NODE_PORT.cluster_ips),
            "the routes of the Service that has gone are gone",
        )
