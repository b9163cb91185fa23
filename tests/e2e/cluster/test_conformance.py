"""Kubernetes' own end-to-end tests for Services, restated for a simulated cluster and kproxy.

Everything is asked of the API server by the official client, and of the Services over TCP: from
the node, and where that matters from a pod's address. The rows are those of Kubernetes 1.20 and
later, in `test/e2e/network`, that say something about a proxy. They are tried on each portal.

=============================================== ===============================================
service.go
----------------------------------------------- -----------------------------------------------
provide secure master service                   test_the_api_server_behind_its_service
serve a basic endpoint from pods                test_backends_come_and_go
serve multiport endpoints from pods             test_each_port_has_the_pods_that_name_it
preserve source pod IP                          not for userspace: skipped by what /proxyMode
                                                says, see test_the_proxys_own_urls
hairpin                                         test_a_pod_reaches_itself
up and down services                            test_services_up_and_down
work after restarting kube-proxy                test_a_restart_of_the_proxy
work after restarting apiserver                 test_a_restart_of_the_api_server
functioning NodePort service                    test_a_node_port
change the type and ports of a service          test_changes_of_type_and_ports
same port number, different protocols           test_a_udp_port_of_the_same_number
ExternalName to ClusterIP and NodePort, back    test_from_and_to_an_external_name; names belong
                                                to a DNS server
release NodePorts on delete                     test_a_deleted_services_node_port_is_free
endpoints for unready pods                      test_unready_pods
load-balancer source ranges                     tests/e2e/files/test_drops.py
internal load balancer, health interval, cloud  not applicable: cloud
affinity of ClusterIP and NodePort              test_affinity
affinity timeout of ClusterIP and NodePort      test_affinity_ends_when_idle
switching affinity of ClusterIP and NodePort    test_affinity_is_switched
affinity of a load balancer                     not applicable: cloud
service-proxy-name and headless label           test_a_label_makes_it_somebody_elses
rejected when no endpoints exist                test_no_endpoints_are_refused
ESIPP                                           test_the_local_policy; source IPs are not kept;
                                                tests/e2e/files/test_health_check.py
SCTP                                            not applicable: TCP and UDP only
networking.go
----------------------------------------------- -----------------------------------------------
granular checks, http                           test_a_node_port
granular checks and all others, udp             test_conformance_udp.py
endpoint-Services with the same selector        test_two_services_of_the_same_pods
update endpoints, http                          test_backends_come_and_go
update nodePort, http                           test_changes_of_type_and_ports
client IP affinity, http                        test_affinity
large requests, http                            test_a_large_request
endpoints using hostNetwork                     test_an_endpoint_on_the_node
kube-proxy urls                                 test_the_proxys_own_urls
recreate iptables rules                         not applicable: there are none
others
----------------------------------------------- -----------------------------------------------
dual_stack.go                                   test_conformance_dual_stack.py, on the local portal
conntrack.go                                    test_conformance_udp.py
kube_proxy.go                                   not applicable: netfilter
dns.go                                          not applicable: DNS
API and controllers alone                       tests/simulator
=============================================== ===============================================

Cases: C10 of docs/faults.md.

Behaviour: rows 1, 4, 8, 10, 11, 18, 19, 20, 21, 25, 27, 42 and 43 of docs/behaviour.md.
"""

import contextlib
import http.client
import json
import ssl
import urllib.request

import pytest

from kproxy.model.names import Protocol
from tests.e2e.cluster.conftest import NODE
from tests.e2e.cluster.deployed import (
    REPLICAS,
    cluster_ip,
    deploy,
    node_port,
    ready,
    scale,
    serve,
    template,
)
from tests.e2e.rig import daemon, simulation, sockets
from tests.e2e.rig.simulation import HOST, PORT, Address, Api, Object, Simulation


def test_the_api_server_behind_its_service(beside: Simulation) -> None:
    host, port = cluster_ip(beside.api("default").get("Service", "kubernetes"))
    trusting = ssl.create_default_context(cadata=beside.authority)

    def is_ready() -> bool:
        with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
            made = http.client.HTTPSConnection(host, port, timeout=60, context=trusting)
            with contextlib.closing(made):
                made.request("GET", "/readyz")
                return made.getresponse().read() == b"ok"
        return False

    daemon.wait_until(is_ready, f"https://{host}:{port}/readyz is ok")


def test_backends_come_and_go(api: Api) -> None:
    deploy(api, "web", 0)
    address = cluster_ip(serve(api, "web"))
    for replicas in (1, 2, 1):
        simulation.wait_only(address, scale(api, "web", replicas))
    scale(api, "web", 0)
    simulation.wait_down(address)


def test_each_port_has_the_pods_that_name_it(api: Api) -> None:
    for name in ("one", "two"):
        port = {"name": name, "containerPort": PORT + len(api.list("Pod"))}
        api.create("Pod", name, template("web", port))
    ready(api, "web", 2)
    ports = [
        {"name": name, "port": PORT + index, "targetPort": name}
        for index, name in enumerate(("one", "two"))
    ]
    address, _ = cluster_ip(serve(api, "web", ports=ports))
    simulation.wait_only((address, PORT), {"one"})
    simulation.wait_only((address, PORT + 1), {"two"})


def test_a_pod_reaches_itself(api: Api) -> None:
    deploy(api, "web", 1)
    ((name, pod_ip),) = ready(api, "web", 1).items()
    simulation.wait_up(cluster_ip(serve(api, "web")), {name}, source=pod_ip)


def test_services_up_and_down(api: Api) -> None:
    pods, addresses = {}, {}
    for name in ("one", "two"):
        pods[name] = deploy(api, name)
        addresses[name] = cluster_ip(serve(api, name))
        simulation.wait_up(addresses[name], pods[name])
    api.delete("Service", "one")
    api.delete("Deployment", "one")
    simulation.wait_down(addresses["one"])
    simulation.wait_up(addresses["two"], pods["two"])

    pods["three"] = deploy(api, "three")
    addresses["three"] = cluster_ip(serve(api, "three"))
    for name in ("two", "three"):
        simulation.wait_up(addresses[name], pods[name])
    assert addresses["two"] != addresses["three"]


def test_a_restart_of_the_proxy(beside: Simulation, api: Api) -> None:
    served = [(cluster_ip(serve(api, name)), deploy(api, name)) for name in ("one", "two")]
    for address, pods in served:
        simulation.wait_up(address, pods)
    beside.stop_proxy()
    assert not any(sockets.is_open(address) for address, _ in served)
    beside.start_proxy(NODE)
    for address, pods in served:
        simulation.wait_up(address, pods)


def test_a_restart_of_the_api_server(beside: Simulation, api: Api) -> None:
    pods = deploy(api, "web")
    address = cluster_ip(serve(api, "web"))
    simulation.wait_up(address, pods)
    beside.stop_api()
    simulation.wait_up(address, pods)
    beside.start_api()
    simulation.wait_up(address, pods)
    simulation.wait_up(cluster_ip(serve(api, "web", name="later")), pods)


def test_a_node_port(api: Api) -> None:
    deploy(api, "web")
    pods = ready(api, "web", REPLICAS)
    service = serve(api, "web", type="NodePort")
    for source in (HOST, next(iter(pods.values()))):
        simulation.wait_up(cluster_ip(service), pods, source)
        simulation.wait_up(node_port(service), pods, source)


def test_changes_of_type_and_ports(api: Api) -> None:
    pods = deploy(api, "web")
    cluster = cluster_ip(serve(api, "web"))
    simulation.wait_up(cluster, pods)

    first = node_port(api.patch("Service", "web", {"spec": {"type": "NodePort"}}))
    simulation.wait_up(first, pods)
    ports = [{"port": PORT, "nodePort": simulation.free_node_port()}]
    second = node_port(api.patch("Service", "web", {"spec": {"ports": ports}}))
    simulation.wait_up(second, pods)
    simulation.wait_down(first)

    api.patch("Service", "web", {"spec": {"type": "LoadBalancer"}})
    balancer = load_balancer_ip(api, "web"), PORT
    for address in (balancer, second, cluster):
        simulation.wait_up(address, pods)
    ports = [{"port": PORT + 1, "targetPort": PORT, "nodePort": second[1]}]
    api.patch("Service", "web", {"spec": {"ports": ports}})
    for host, port in (balancer, cluster):
        simulation.wait_up((host, port + 1), pods)
        simulation.wait_down((host, port))
    simulation.wait_up(second, pods)

    api.patch("Service", "web", {"spec": {"type": "ClusterIP"}})
    simulation.wait_down(second)
    simulation.wait_down((balancer[0], PORT + 1))
    simulation.wait_up((cluster[0], PORT + 1), pods)


def load_balancer_ip(api: Api, name: str) -> str:
    """The address that a Service is given, as soon as it has one."""
    found: list[Object] = []

    def has_one() -> bool:
        found[:] = api.get("Service", name)["status"]["loadBalancer"].get("ingress") or []
        return bool(found)

    daemon.wait_until(has_one, f"a load balancer for {name}")
    return str(found[0]["ip"])


def test_a_udp_port_of_the_same_number(api: Api) -> None:
    pods = deploy(api, "web", protocols=(Protocol.TCP, Protocol.UDP))
    tcp, udp = ({"name": each, "port": PORT, "protocol": each.upper()} for each in ("tcp", "udp"))
    service = serve(api, "web", type="NodePort", ports=[tcp])
    simulation.wait_up(cluster_ip(service), pods)
    both = api.patch("Service", "web", {"spec": {"ports": [tcp, udp]}})
    numbers = [port["nodePort"] for port in both["spec"]["ports"]]
    assert len(set(numbers)) == 2
    assert numbers[0] == service["spec"]["ports"][0]["nodePort"]
    simulation.wait_up(node_port(service), pods)
    for address in (cluster_ip(service), (HOST, numbers[1])):
        simulation.wait_up(address, pods, protocol=Protocol.UDP)
    api.patch("Service", "web", {"spec": {"ports": [udp]}})
    simulation.wait_down(cluster_ip(service))
    simulation.wait_down(node_port(service))
    simulation.wait_up(cluster_ip(service), pods, protocol=Protocol.UDP)
    api.patch("Service", "web", {"spec": {"ports": [tcp]}})
    simulation.wait_down(cluster_ip(service), Protocol.UDP)
    simulation.wait_up(cluster_ip(service), pods)


@pytest.mark.parametrize("kind", ["ClusterIP", "NodePort"])
def test_from_and_to_an_external_name(api: Api, kind: str) -> None:
    pods = deploy(api, "web")
    external = {"type": "ExternalName", "externalName": "example.com", "selector": None}
    api.create("Service", "web", {"spec": external})
    spec = {
        "type": kind,
        "externalName": None,
        "selector": {"app": "web"},
        "ports": [{"port": PORT}],
    }
    served = api.patch("Service", "web", {"spec": spec})
    addresses = [cluster_ip(served), *([node_port(served)] if kind == "NodePort" else [])]
    for address in addresses:
        simulation.wait_up(address, pods)
    ended = api.patch("Service", "web", {"spec": external})
    assert "clusterIP" not in ended["spec"]
    for address in addresses:
        simulation.wait_down(address)


def test_a_deleted_services_node_port_is_free(api: Api) -> None:
    pods = deploy(api, "web")
    service = serve(api, "web", type="NodePort")
    simulation.wait_up(node_port(service), pods)
    api.delete("Service", "web")
    simulation.wait_down(node_port(service))
    ports = [{"port": PORT, "nodePort": node_port(service)[1]}]
    heir = serve(api, "web", name="heir", type="NodePort", ports=ports)
    simulation.wait_up(node_port(heir), pods)


def test_unready_pods(api: Api) -> None:
    behaviour = {"kproxy.io/ready": "false", "kproxy.io/termination-seconds": "30"}
    unready = template("web", **behaviour)
    api.create("Pod", "only", unready)
    address = cluster_ip(serve(api, "web", publishNotReadyAddresses=True))
    simulation.wait_up(address, {"only"})
    api.patch("Service", "web", {"spec": {"publishNotReadyAddresses": False}})
    simulation.wait_down(address)
    api.patch("Service", "web", {"spec": {"publishNotReadyAddresses": True}})
    simulation.wait_up(address, {"only"})

    api.delete("Pod", "only")
    daemon.wait_until(lambda: is_terminating(api), "the slice says that the pod is terminating")
    simulation.wait_up(address, {"only"})
    api.patch("Service", "web", {"spec": {"publishNotReadyAddresses": False}})
    simulation.wait_down(address)


def is_terminating(api: Api) -> bool:
    """Whether the only endpoint of the only slice is."""
    ((endpoint,),) = [each["endpoints"] for each in api.list("EndpointSlice")]
    return bool(endpoint["conditions"]["terminating"])


KINDS = pytest.mark.parametrize("kind", ["ClusterIP", "NodePort"])


def stick(beside: Simulation, api: Api, kind: str, **client_ip: int) -> Address:
    """A Service with affinity; the proxy knows all of its pods."""
    deploy(api, "web")
    config = {"clientIP": client_ip}
    service = serve(api, "web", type=kind, sessionAffinity="ClientIP", sessionAffinityConfig=config)
    beside.wait_state(api, "web", "bound", REPLICAS)
    return cluster_ip(service) if kind == "ClusterIP" else node_port(service)


@KINDS
def test_affinity(beside: Simulation, api: Api, kind: str) -> None:
    address = stick(beside, api, kind)
    assert simulation.has_affinity(address)
    others = ready(api, "web", REPLICAS).values()
    assert len({simulation.who(address, source) for source in others}) > 1


@KINDS
def test_affinity_ends_when_idle(beside: Simulation, api: Api, kind: str) -> None:
    address = stick(beside, api, kind, timeoutSeconds=1)
    daemon.wait_until(lambda: simulation.has_affinity(address), "15 equal answers")
    answers = {simulation.who(address)}
    for _ in range(10):
        daemon.wait_until(lambda: not beside.is_bound(api, "web"), "the client is forgotten")
        answers.add(simulation.who(address))
        if len(answers) > 1:
            return
    pytest.fail(f"still only {answers} after 10 times a second without a request")


@KINDS
def test_affinity_is_switched(beside: Simulation, api: Api, kind: str) -> None:
    address = stick(beside, api, kind)
    assert simulation.has_affinity(address)
    api.patch("Service", "web", {"spec": {"sessionAffinity": "None"}})
    daemon.wait_until(lambda: not simulation.has_affinity(address), "affinity ends")
    api.patch("Service", "web", {"spec": {"sessionAffinity": "ClientIP"}})
    daemon.wait_until(lambda: simulation.has_affinity(address), "affinity is back")


@pytest.mark.parametrize("label", ["service-proxy-name", "headless"])
def test_a_label_makes_it_somebody_elses(api: Api, label: str) -> None:
    pods = deploy(api, "web")
    labelled: Object = {"metadata": {"labels": {f"service.kubernetes.io/{label}": "other"}}}
    bare: Object = {"metadata": {"labels": {f"service.kubernetes.io/{label}": None}}}
    spec = {"selector": {"app": "web"}, "ports": [{"port": PORT}]}
    address = cluster_ip(api.create("Service", "labelled", {**labelled, "spec": spec}))
    simulation.wait_up(cluster_ip(serve(api, "web", name="ours")), pods)
    assert sockets.is_refused(address)
    api.patch("Service", "labelled", bare)
    simulation.wait_up(address, pods)
    api.patch("Service", "labelled", labelled)
    simulation.wait_down(address)
    api.patch("Service", "labelled", bare)
    simulation.wait_up(address, pods)


def test_no_endpoints_are_refused(beside: Simulation, api: Api) -> None:
    service = serve(api, "nobody", type="NodePort")
    beside.wait_state(api, "nobody", "no-endpoints", 0)
    assert sockets.is_refused(cluster_ip(service))
    assert sockets.is_refused(node_port(service))


def test_the_local_policy(beside: Simulation, api: Api) -> None:
    pods = deploy(api, "web")
    here = {pod["metadata"]["name"] for pod in api.list("Pod") if pod["spec"]["nodeName"] == NODE}
    assert len(here) == 1
    if beside.clients_are_near:
        here = pods
    service = serve(api, "web", type="NodePort", externalTrafficPolicy="Local")
    simulation.wait_only(node_port(service), here)
    simulation.wait_up(cluster_ip(service), pods)
    api.patch("Service", "web", {"spec": {"externalTrafficPolicy": "Cluster"}})
    simulation.wait_up(node_port(service), pods)
    api.patch("Service", "web", {"spec": {"externalTrafficPolicy": "Local"}})
    simulation.wait_only(node_port(service), here)


def test_the_local_policy_without_a_local_pod(beside: Simulation, api: Api) -> None:
    elsewhere = template("web")
    elsewhere["spec"]["nodeName"] = "node-2"
    api.create("Pod", "elsewhere", elsewhere)
    service = serve(api, "web", type="NodePort", externalTrafficPolicy="Local")
    simulation.wait_up(cluster_ip(service), {"elsewhere"})
    if beside.clients_are_near:
        simulation.wait_up(node_port(service), {"elsewhere"})
    else:
        address = node_port(service)
        daemon.wait_until(lambda: sockets.outcome(address) == "silence", "clients are dropped")


def test_two_services_of_the_same_pods(api: Api) -> None:
    pods = deploy(api, "web")
    one, two = (cluster_ip(serve(api, "web", name=name)) for name in ("one", "two"))
    simulation.wait_up(one, pods)
    simulation.wait_up(two, pods)
    api.delete("Service", "one")
    simulation.wait_down(one)
    simulation.wait_up(two, pods)


def test_a_large_request(api: Api) -> None:
    pods = deploy(api, "web", 1)
    address = cluster_ip(serve(api, "web"))
    simulation.wait_up(address, pods)
    path = "/" + "x" * 2000
    assert f"request: GET {path}\n" in simulation.fetch(address, path)


def test_an_endpoint_on_the_node(api: Api) -> None:
    with sockets.namers((HOST, "the node itself")) as (backend,):
        service = api.create("Service", "host", {"spec": {"ports": [{"port": PORT}]}})
        slice_of_host = {
            "metadata": {"labels": {"kubernetes.io/service-name": "host"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [HOST]}],
            "ports": [{"name": "", "port": backend.address[1]}],
        }
        api.create("EndpointSlice", "host-1", slice_of_host)
        address = cluster_ip(service)
        daemon.wait_until(lambda: sockets.is_open(address), f"{address} is open")
        assert sockets.ask(address) == "the node itself"


def test_the_proxys_own_urls(beside: Simulation) -> None:
    with urllib.request.urlopen(f"http://{beside.healthz}/healthz", timeout=60) as answer:
        assert answer.status == 200
        assert "lastUpdated" in json.load(answer)
    with urllib.request.urlopen(f"http://{beside.metrics}/proxyMode", timeout=60) as answer:
        assert answer.read() == b"userspace"
