"""Kubernetes' end-to-end tests of Services over UDP, restated as in `test_conformance`.

=============================================== ===============================================
networking.go
----------------------------------------------- -----------------------------------------------
granular checks, udp: pod-, node-, endpoint-    test_every_endpoint_answers
Service
update endpoints, udp                           test_endpoints_come_and_go
update nodePort, udp                            test_a_node_port_is_given_up
client IP affinity, udp                         test_affinity_of_an_address
large requests, udp                             test_a_large_request
service.go
----------------------------------------------- -----------------------------------------------
same port number, different protocols           test_one_protocol_of_a_number_goes
rejected when no endpoints exist                test_no_endpoints_are_refused
conntrack.go
----------------------------------------------- -----------------------------------------------
UDP goes on when the server pod cycles          test_a_client_moves_with_its_pod
UDP goes on when a pod comes late               test_a_client_that_was_early_is_served_later
=============================================== ===============================================

Behaviour: rows 6, 18, 25 and 40 of docs/behaviour.md.
"""

import contextlib
import socket

import pytest

from kproxy.model.names import Protocol
from tests.e2e.cluster import deployed
from tests.e2e.cluster.deployed import REPLICAS, cluster_ip, node_port, ready, serve
from tests.e2e.rig import daemon, simulation, sockets
from tests.e2e.rig.simulation import HOST, PORT, Address, Api, Object, Simulation

UDP = Protocol.UDP
KINDS = pytest.mark.parametrize("kind", ["ClusterIP", "NodePort"])
PORTS = [{"name": "udp", "port": PORT, "protocol": "UDP"}]


def deploy(api: Api, app: str, replicas: int = REPLICAS) -> set[str]:
    """As `deployed.deploy`, with pods of UDP and TCP."""
    return deployed.deploy(api, app, replicas, (Protocol.TCP, UDP))


def address_of(service: Object) -> Address:
    """Its node port if it has one, else its ClusterIP."""
    return node_port(service) if service["spec"]["type"] == "NodePort" else cluster_ip(service)


@KINDS
def test_every_endpoint_answers(api: Api, kind: str) -> None:
    deploy(api, "web")
    pods = ready(api, "web", REPLICAS)
    address = address_of(serve(api, "web", type=kind, ports=PORTS))
    for source in (HOST, next(iter(pods.values()))):
        simulation.wait_up(address, pods, source, UDP)


@KINDS
def test_endpoints_come_and_go(api: Api, kind: str) -> None:
    deploy(api, "web", 0)
    address = address_of(serve(api, "web", type=kind, ports=PORTS))
    for replicas in (1, 3, 2):
        simulation.wait_only(address, deployed.scale(api, "web", replicas), UDP)
    deployed.scale(api, "web", 0)
    simulation.wait_down(address, UDP)


def test_a_node_port_is_given_up(api: Api) -> None:
    pods = deploy(api, "web")
    service = serve(api, "web", type="NodePort", ports=PORTS)
    simulation.wait_up(node_port(service), pods, protocol=UDP)
    api.patch("Service", "web", {"spec": {"type": "ClusterIP"}})
    simulation.wait_down(node_port(service), UDP)
    simulation.wait_up(cluster_ip(service), pods, protocol=UDP)


@KINDS
def test_affinity_of_an_address(beside: Simulation, api: Api, kind: str) -> None:
    deploy(api, "web")
    service = serve(api, "web", type=kind, ports=PORTS, sessionAffinity="ClientIP")
    beside.wait_state(api, "web", "bound", REPLICAS)
    address = address_of(service)
    assert simulation.has_affinity(address, UDP)
    others = ready(api, "web", REPLICAS).values()
    assert len({simulation.who(address, source, UDP) for source in others}) > 1


def test_a_large_request(api: Api) -> None:
    (name,) = deploy(api, "web", 1)
    address = cluster_ip(serve(api, "web", ports=PORTS))
    simulation.wait_up(address, {name}, protocol=UDP)
    with sockets.datagrams(address) as client:
        assert asks(client, b"x" * 2000) == name


def test_one_protocol_of_a_number_goes(api: Api) -> None:
    pods = deploy(api, "web")
    both = [{"name": each.lower(), "port": PORT, "protocol": each} for each in ("TCP", "UDP")]
    address = cluster_ip(serve(api, "web", ports=both))
    for protocol in Protocol.TCP, UDP:
        simulation.wait_up(address, pods, protocol=protocol)
    api.patch("Service", "web", {"spec": {"ports": both[:1]}})
    simulation.wait_down(address, UDP)
    assert simulation.who(address) in pods
    api.patch("Service", "web", {"spec": {"ports": both[1:]}})
    simulation.wait_down(address)
    simulation.wait_up(address, pods, protocol=UDP)


def test_no_endpoints_are_refused(beside: Simulation, api: Api) -> None:
    service = serve(api, "nobody", type="NodePort", ports=PORTS)
    beside.wait_state(api, "nobody", "no-endpoints", 0)
    simulation.wait_down(cluster_ip(service), UDP)
    simulation.wait_down(node_port(service), UDP)


@KINDS
def test_a_client_moves_with_its_pod(api: Api, kind: str) -> None:
    """One socket, all the time: its datagrams reach the pod that there is."""
    (first,) = deploy(api, "web", 1)
    address = address_of(serve(api, "web", type=kind, ports=PORTS))
    simulation.wait_up(address, {first}, protocol=UDP)
    with sockets.datagrams(address) as client:
        assert asks(client) == first
        api.delete("Pod", first)
        daemon.wait_until(
            lambda: asks(client, seconds=1.0) not in ("", first),
            "the client's socket reaches the new pod",
        )


@KINDS
def test_a_client_that_was_early_is_served_later(api: Api, kind: str) -> None:
    """One socket, which is refused until there is a pod."""
    address = address_of(serve(api, "web", type=kind, ports=PORTS))
    with sockets.datagrams(address) as client:
        assert asks(client) == ""
        (name,) = deploy(api, "web", 1)
        daemon.wait_until(
            lambda: asks(client, seconds=1.0) == name, "the client's socket reaches the pod"
        )


def asks(
    client: socket.socket, question: bytes = b"who are you?", seconds: float = sockets.SECONDS
) -> str:
    """The name of the pod that answers; "" for a refusal, or for no answer in so many seconds."""
    with contextlib.suppress(ConnectionRefusedError, TimeoutError):
        client.settimeout(seconds)
        client.send(question)
        return client.recv(1024).decode().strip()
    return ""
