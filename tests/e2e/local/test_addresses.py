"""What clients meet at each kind of address, on the node, in its pods and outside.

Rows 1, 12, 14, 15, 17, 25, 39 and 42 of docs/behaviour.md.
"""

import pytest

from kproxy.model.addresses import Family
from kproxy.model.names import Protocol
from tests.e2e.local import catalogue
from tests.e2e.local.conftest import Cluster
from tests.e2e.rig import namespaces, pods
from tests.e2e.rig.pods import REFUSED
from tests.e2e.rig.published import of

pytestmark = [
    pytest.mark.netns,
    pytest.mark.extra,
    namespaces.needs_root,
    namespaces.needs_programs,
]

BOTH = {"pod-a", "pod-b"}


@pytest.mark.parametrize("place", ["node_a", "node_b", "pod_a", "pod_b"])
def test_a_cluster_ip_from_nodes_and_pods(
    cluster: Cluster, protocol: Protocol, family: Family, place: str
) -> None:
    client = getattr(cluster.network, place)
    assert pods.met(client, catalogue.WEB.at(family), protocol) == BOTH


@pytest.mark.parametrize("node", [namespaces.NODE_A, namespaces.NODE_B], ids=["a", "b"])
def test_a_node_port_from_outside(
    cluster: Cluster, protocol: Protocol, family: Family, node: namespaces.Host
) -> None:
    address = catalogue.NODE_PORT.on(node, family)
    assert pods.met(cluster.network.client, address, protocol) == BOTH


def test_a_node_port_from_the_node_and_its_pod(
    cluster: Cluster, protocol: Protocol, family: Family
) -> None:
    address = catalogue.NODE_PORT.on(namespaces.NODE_A, family)
    for client in (cluster.network.node_a, cluster.network.pod_a):
        assert pods.met(client, address, protocol) == BOTH


def test_a_node_port_is_only_where_node_ports_are_allowed(
    cluster: Cluster, protocol: Protocol, family: Family
) -> None:
    gateway = "10.244.1.1" if family is Family.IPV4 else "fd00:10:244:1::1"
    address = gateway, catalogue.NODE_PORT.node_port
    assert pods.meet(cluster.network.pod_a, address, protocol) == REFUSED


@pytest.mark.parametrize("hosts", [catalogue.outside(12), catalogue.outside_b(12)], ids=["a", "b"])
def test_an_external_ip_from_outside(
    cluster: Cluster, protocol: Protocol, family: Family, hosts: namespaces.Host
) -> None:
    assert pods.met(cluster.network.client, (of(hosts, family), 80), protocol) == BOTH


def test_an_external_ip_from_pods(cluster: Cluster, protocol: Protocol, family: Family) -> None:
    address = of(catalogue.outside(12), family), 80
    assert pods.met(cluster.network.pod_a, address, protocol) == BOTH


@pytest.mark.parametrize("address", catalogue.UNLISTED.spec["externalIPs"])  # type: ignore[arg-type]
def test_an_external_ip_that_is_not_allowed_is_not_made_local(
    cluster: Cluster, address: str
) -> None:
    family = "-6" if ":" in address else "-4"
    routes = cluster.network.node_a.run("ip", family, "route", "show", "table", "all")
    assert address not in routes
    assert pods.met(cluster.network.pod_a, catalogue.UNLISTED.at(Family.IPV4)) == BOTH


@pytest.mark.parametrize("hosts", [catalogue.outside(14), catalogue.outside_b(14)], ids=["a", "b"])
def test_a_load_balancers_address_takes_its_source_ranges(
    cluster: Cluster, protocol: Protocol, family: Family, hosts: namespaces.Host
) -> None:
    address = of(hosts, family), 80
    source = of(namespaces.CLIENT, family)
    assert pods.met(cluster.network.client, address, protocol, source=source) == BOTH


def test_a_load_balancers_address_drops_other_sources(
    cluster: Cluster, protocol: Protocol, family: Family
) -> None:
    address = of(catalogue.outside(14), family), 80
    source = of(namespaces.STRANGER, family)
    assert pods.is_dropped(cluster.network.client, address, protocol, source=source)


def test_source_ranges_are_for_the_load_balancers_address_alone(
    cluster: Cluster, protocol: Protocol, family: Family
) -> None:
    source = of(namespaces.STRANGER, family)
    address = catalogue.BALANCED.on(namespaces.NODE_A, family)
    assert pods.met(cluster.network.client, address, protocol, source=source) == BOTH
    assert pods.met(cluster.network.pod_a, catalogue.BALANCED.at(family), protocol) == BOTH


def test_a_pod_reaches_itself(cluster: Cluster, protocol: Protocol, family: Family) -> None:
    address = catalogue.ALONE.at(family)
    assert pods.met(cluster.network.pod_a, address, protocol) == {"pod-a"}


def test_without_endpoints_every_address_refuses(
    cluster: Cluster, protocol: Protocol, family: Family
) -> None:
    nothing = catalogue.NOTHING
    assert pods.meet(cluster.network.pod_a, nothing.at(family), protocol) == REFUSED
    assert pods.meet(cluster.network.node_a, nothing.at(family), protocol) == REFUSED
    for address in (
        nothing.on(namespaces.NODE_A, family),
        (of(catalogue.outside(19), family), 80),
        (of(catalogue.outside(29), family), 80),
    ):
        assert pods.meet(cluster.network.client, address, protocol) == REFUSED


def test_an_address_of_no_service_refuses(
    cluster: Cluster, protocol: Protocol, family: Family
) -> None:
    address = ("10.96.200.200" if family is Family.IPV4 else "fd00:10:96::c8c8"), 80
    for client in (cluster.network.node_a, cluster.network.pod_a):
        assert pods.meet(client, address, protocol) == REFUSED


def test_a_port_of_no_service_refuses(cluster: Cluster, protocol: Protocol, family: Family) -> None:
    address = of(catalogue.WEB.cluster_ips, family), 81
    for client in (cluster.network.node_a, cluster.network.pod_a):
        assert pods.meet(client, address, protocol) == REFUSED


def test_affinity(cluster: Cluster, protocol: Protocol, family: Family) -> None:
    address = catalogue.STICKY.at(family)
    clients = (cluster.network.pod_a, cluster.network.pod_b, cluster.network.node_a)
    for client in clients:
        (only,) = pods.met(client, address, protocol, times=15)
        assert only in BOTH


def test_an_address_of_a_service_answers_pings(cluster: Cluster, family: Family) -> None:
    """The addresses are the node's own, as in kube-proxy's ipvs mode; iptables drops pings."""
    assert pods.pings(cluster.network.pod_a, of(catalogue.WEB.cluster_ips, family))
