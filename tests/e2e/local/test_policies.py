"""Traffic policies on two nodes, with a proxy each: rows 26 to 30 of docs/behaviour.md."""

import http.client
import json
from contextlib import closing

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


def test_the_external_policy_keeps_to_the_node(
    cluster: Cluster, protocol: Protocol, family: Family
) -> None:
    for node, own in ((namespaces.NODE_A, "pod-a"), (namespaces.NODE_B, "pod-b")):
        address = catalogue.LOCAL_BOTH.on(node, family)
        assert pods.met(cluster.network.client, address, protocol) == {own}


def test_the_external_policy_drops_where_the_node_has_no_endpoint(
    cluster: Cluster, protocol: Protocol, family: Family
) -> None:
    client, local = cluster.network.client, catalogue.LOCAL
    assert pods.met(client, local.on(namespaces.NODE_A, family), protocol) == {"pod-a"}
    assert pods.met(client, (of(catalogue.outside(15), family), 80), protocol) == {"pod-a"}
    assert pods.is_dropped(client, local.on(namespaces.NODE_B, family), protocol)
    assert pods.is_dropped(client, (of(catalogue.outside_b(15), family), 80), protocol)


def test_the_external_policy_is_not_for_cluster_ips(
    cluster: Cluster, protocol: Protocol, family: Family
) -> None:
    for client in (cluster.network.pod_b, cluster.network.node_b):
        assert pods.met(client, catalogue.LOCAL.at(family), protocol) == {"pod-a"}


def test_the_external_policy_is_not_for_clients_on_the_node(
    cluster: Cluster, protocol: Protocol, family: Family
) -> None:
    node_b, local = cluster.network.node_b, catalogue.LOCAL
    assert pods.met(node_b, local.on(namespaces.NODE_B, family), protocol) == {"pod-a"}
    assert pods.met(node_b, (of(catalogue.outside_b(15), family), 80), protocol) == {"pod-a"}
    address = catalogue.LOCAL_BOTH.on(namespaces.NODE_B, family)
    assert pods.met(node_b, address, protocol) == BOTH


def test_without_endpoints_the_external_policy_refuses(
    cluster: Cluster, protocol: Protocol, family: Family
) -> None:
    address = catalogue.NOTHING_LOCAL.on(namespaces.NODE_A, family)
    assert pods.meet(cluster.network.client, address, protocol) == REFUSED


def test_the_internal_policy_keeps_to_the_node_and_drops(
    cluster: Cluster, protocol: Protocol, family: Family
) -> None:
    address = catalogue.INTERNAL.at(family)
    assert pods.met(cluster.network.pod_b, address, protocol) == {"pod-b"}
    assert pods.is_dropped(cluster.network.pod_a, address, protocol)
    assert pods.is_dropped(cluster.network.node_a, address, protocol)


@pytest.mark.parametrize(
    ("node", "status", "count"), [(namespaces.NODE_A, 200, 1), (namespaces.NODE_B, 503, 0)]
)
def test_the_health_check_port_says_whether_the_node_has_an_endpoint(
    cluster: Cluster, family: Family, node: namespaces.Host, status: int, count: int
) -> None:
    address = of(node, family), 31015
    with closing(pods.connect(cluster.network.client, address)) as sock:
        made = http.client.HTTPConnection(*address)
        made.sock = sock
        made.request("GET", "/healthz")
        answer = made.getresponse()
        body = answer.read()
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    said = json.loads(body)
    assert said["service"] == {"namespace": "default", "name": "local"}
    assert said["localEndpoints"] == count
    assert body.startswith(b'{\n\t"service": {\n\t\t"namespace": "default",\n\t\t"name": "local"')
