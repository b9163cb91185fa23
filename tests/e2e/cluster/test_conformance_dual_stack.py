"""Kubernetes' end-to-end tests of dual-stack Services (`dual_stack.go`), on the local portal.

=============================================== ===============================================
IPv4, IPv6, and both in either order            test_each_cluster_ip_reaches_every_pod
node port of a dual-stack Service               test_a_node_port_of_both_families
a Service takes and gives up its second family  test_a_family_comes_and_goes
=============================================== ===============================================

Behaviour: row 39 of docs/behaviour.md.
"""

import pytest

from kproxy.model.names import Protocol
from tests.e2e.cluster.deployed import deploy, node_port, serve
from tests.e2e.rig import simulation
from tests.e2e.rig.simulation import HOST6, PORT, Api, Simulation

PORTS = [{"name": each.lower(), "port": PORT, "protocol": each} for each in ("TCP", "UDP")]
PROTOCOLS = (Protocol.TCP, Protocol.UDP)


@pytest.fixture(autouse=True)
def _is_dual_stack(beside: Simulation) -> None:
    """The cluster has both families."""
    if not beside.portal.pods:
        pytest.skip("the loopback portal is IPv4")


@pytest.mark.parametrize(
    "families", [["IPv4"], ["IPv6"], ["IPv4", "IPv6"], ["IPv6", "IPv4"]], ids=",".join
)
def test_each_cluster_ip_reaches_every_pod(api: Api, families: list[str]) -> None:
    pods = deploy(api, "web", protocols=PROTOCOLS)
    policy = "RequireDualStack" if len(families) == 2 else "SingleStack"
    spec = serve(api, "web", ports=PORTS, ipFamilies=families, ipFamilyPolicy=policy)["spec"]
    assert ["IPv6" if ":" in each else "IPv4" for each in spec["clusterIPs"]] == families
    for address in spec["clusterIPs"]:
        for protocol in PROTOCOLS:
            simulation.wait_up((address, PORT), pods, protocol=protocol)


def test_a_node_port_of_both_families(api: Api) -> None:
    pods = deploy(api, "web", protocols=PROTOCOLS)
    service = serve(api, "web", ports=PORTS, type="NodePort", ipFamilyPolicy="RequireDualStack")
    host, _ = node_port(service)
    for protocol, port in zip(PROTOCOLS, service["spec"]["ports"], strict=True):
        for address in (host, HOST6):
            simulation.wait_up((address, port["nodePort"]), pods, protocol=protocol)


def test_a_family_comes_and_goes(api: Api) -> None:
    pods = deploy(api, "web", protocols=PROTOCOLS)
    first = serve(api, "web", ports=PORTS)["spec"]["clusterIP"]
    change = {"spec": {"ipFamilyPolicy": "RequireDualStack"}}
    _, second = api.patch("Service", "web", change)["spec"]["clusterIPs"]
    for protocol in PROTOCOLS:
        simulation.wait_up((second, PORT), pods, protocol=protocol)
    api.patch("Service", "web", {"spec": {"ipFamilyPolicy": "SingleStack"}})
    for protocol in PROTOCOLS:
        simulation.wait_down((second, PORT), protocol)
        simulation.wait_up((first, PORT), pods, protocol=protocol)
