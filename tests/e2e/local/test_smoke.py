"""Both ways of the local portal, each at a glance; the other modules have the details."""

from pathlib import Path

import pytest

from kproxy.model.addresses import Family
from kproxy.model.names import Protocol
from tests.cli import inside
from tests.e2e.local import catalogue, conftest
from tests.e2e.local.conftest import Way
from tests.e2e.rig import manifests, namespaces, pods
from tests.e2e.rig.pods import REFUSED
from tests.e2e.rig.published import of

pytestmark = [pytest.mark.netns, namespaces.needs_root, namespaces.needs_programs]

_BOTH = {"pod-a", "pod-b"}


@pytest.mark.parametrize("way", Way, ids=str)
def test_services_are_reached_at_their_own_addresses(tmp_path: Path, way: Way) -> None:
    services = (catalogue.NODE_PORT, catalogue.BALANCED, catalogue.LOCAL, catalogue.NOTHING)
    objects = [each for service in services for each in service.objects()]
    path = manifests.write(tmp_path / "services.yaml", *objects)
    with (
        namespaces.network() as network,
        pods.pods(network),
        conftest.on_node(
            tmp_path / "k", network, "node-b", path, *conftest.RANGES, *way.flags
        ) as proxy,
    ):
        for protocol in (Protocol.TCP, Protocol.UDP):
            for family in Family:
                _is_served(network, protocol, family)
        for protocol, family in ((Protocol.TCP, Family.IPV4), (Protocol.UDP, Family.IPV6)):
            _is_dropped(network, protocol, family)
        said = _get(network.node_b, tmp_path / "k", "services", "-o", "wide", "--no-headers")
        wide = [line.split() for line in said.splitlines()]
        assert [row[:3] for row in wide if row[0] == "node-port"] == [
            ["node-port", "80/TCP", "10.96.0.11:80"],
            ["node-port", "80/UDP", "10.96.0.11:80"],
        ]
        assert ("sk_lookup" in said) == (way is Way.FAST)
        (way_taken,) = proxy.wait_logged("portal=local", "listener")
        assert ("share a listener" in way_taken) == (way is Way.FAST)
        with network.node_b.inside():
            shared = {each for each in proxy.listening() if each == ("10.96.0.11", 80)}
        assert bool(shared) == (way is Way.PLAIN)
        assert proxy.stop() == 0
        assert "Traceback" not in proxy.log()
        assert "10.96" not in network.node_b.run("ip", "route", "show", "table", "all")


def _is_served(network: namespaces.Network, protocol: Protocol, family: Family) -> None:
    """Served or refused, as each Service is to be on node-b."""
    client, pod = network.client, network.pod_b
    assert pods.met(pod, catalogue.NODE_PORT.at(family), protocol) == _BOTH
    address = catalogue.NODE_PORT.on(namespaces.NODE_B, family)
    assert pods.met(client, address, protocol) == _BOTH
    balanced = of(catalogue.outside_b(14), family), 80
    source = of(namespaces.CLIENT, family)
    assert pods.met(client, balanced, protocol, source=source) == _BOTH
    local = catalogue.LOCAL.on(namespaces.NODE_B, family)
    assert pods.meet(network.node_b, local, protocol) == "pod-a"
    nothing = catalogue.NOTHING
    assert pods.meet(pod, nothing.at(family), protocol) == REFUSED
    assert pods.meet(client, nothing.on(namespaces.NODE_B, family), protocol) == REFUSED


def _is_dropped(network: namespaces.Network, protocol: Protocol, family: Family) -> None:
    """By the source ranges, and by the Local policy."""
    balanced = of(catalogue.outside_b(14), family), 80
    source = of(namespaces.STRANGER, family)
    assert pods.is_dropped(network.client, balanced, protocol, source=source)
    local = catalogue.LOCAL.on(namespaces.NODE_B, family)
    assert pods.is_dropped(network.client, local, protocol)


def _get(node: namespaces.Namespace, folder: Path, *arguments: str) -> str:
    """What `kproxy get` says of the proxy whose folder that is."""
    with node.inside():
        done = inside.run("get", *arguments, XDG_RUNTIME_DIR=str(folder))
    assert done.returncode == 0, done.stderr
    return done.stdout
