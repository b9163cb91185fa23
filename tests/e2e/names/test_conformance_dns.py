"""Kubernetes' end-to-end conformance tests of DNS (test/e2e/network/dns.go), restated.

A prober is glibc or dig with the resolv.conf and the hosts file of its pod. So its questions take
the way of a pod's: the address of kube-dns, a proxy's UDP or TCP frontend, the name server.

=============================================== ===============================================
dns.go                                          here
----------------------------------------------- -----------------------------------------------
should provide DNS for the cluster              test_the_cluster
should provide /etc/hosts entries               test_hosts_entries
should provide DNS for services                 test_services
partial qualified names for services            test_partial_names_of_services
should provide DNS for pods for Hostname        test_the_hostname_of_a_pod
should provide DNS for pods for Subdomain       test_the_subdomain_of_a_pod
should provide DNS for ExternalName services    test_external_names
configurable pod DNS nameservers                test_nameservers_of_a_pods_own
=============================================== ===============================================
"""

import ipaddress
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kproxy import settings
from kproxy.demo import stage
from kproxy.simulator import cluster
from tests.e2e.rig import daemon, resolving, simulation
from tests.e2e.rig.simulation import PORT, Api

pytestmark = [pytest.mark.extra, pytest.mark.netns, resolving.needs_root]

HEADLESS = "dns-test-service"
REGULAR = "test-service-2"
PORTS = [{"name": "http", "port": PORT, "targetPort": PORT, "protocol": "TCP"}]
LABELS = {"dns-test": "true"}

_numbers = itertools.count(1)


class Lab(NamedTuple):
    """A cluster with a DNS, and the proxy beside it."""

    folder: Path
    made: simulation.Simulation


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The cluster, and the proxy of a node, by which its DNS is reached."""
    folder = tmp_path_factory.mktemp("dns")
    with stage.claimed_ranges() as ranges:
        options = cluster.Options(
            service_cidr=ranges.services,
            pod_cidr=ranges.pods,
            load_balancer_cidr=ranges.load_balancers,
            dns=settings.Listen("127.0.0.1", 0),
        )
        with simulation.simulated(options) as (running, loop):
            made = simulation.Simulation(folder, running, loop)
            made.start_proxy("node-1")
            try:
                yield Lab(folder, made)
            finally:
                made.stop_proxy()


@pytest.fixture
def api(lab: Lab) -> Iterator[Api]:
    """A namespace of the test's own."""
    name = f"dns-{next(_numbers)}"
    made = lab.made.api(name)
    made.create("Namespace", name, {})
    yield made
    made.delete("Namespace", name)


def prober(lab: Lab, api: Api, name: str = "dns-querier-1", **spec: Any) -> resolving.Resolver:
    """A pod, and programs with its files."""
    container = {"name": "c", "image": "i", "ports": [{"containerPort": PORT}]}
    body = {"metadata": {"labels": LABELS}, "spec": {"containers": [container], **spec}}
    api.create("Pod", name, body)
    daemon.wait_until(lambda: _ip(api, name), f"{name} runs")
    files = [simulation.fetch((_ip(api, name), PORT), f"/etc/{each}") for each in _FILES]
    return resolving.Resolver(lab.folder / api.namespace / name, *files)


_FILES = ("resolv.conf", "hosts")


def _ip(api: Api, name: str) -> str:
    """The address of a pod that is ready; "" before."""
    status = api.get("Pod", name)["status"]
    ready = [each for each in status.get("conditions", ()) if each["type"] == "Ready"]
    return str(status["podIP"]) if ready and ready[0]["status"] == "True" else ""


def create_services(api: Api) -> str:
    """A headless and a regular Service of the pods with the labels; the ClusterIP of the latter."""
    spec = {"selector": LABELS, "ports": PORTS}
    api.create("Service", HEADLESS, {"spec": {**spec, "clusterIP": "None"}})
    return str(api.create("Service", REGULAR, {"spec": spec})["spec"]["clusterIP"])


def test_the_cluster(lab: Lab, api: Api) -> None:
    pod = prober(lab, api)
    address = lab.made.api("default").get("Service", "kubernetes")["spec"]["clusterIP"]

    for name in (
        "kubernetes.default.svc.cluster.local",
        "kubernetes.default.svc",
        "kubernetes.default",
    ):
        assert pod.addresses(name) == {address}
        assert pod.dig(name, "A") == address
        assert pod.dig("+tcp", name, "A") == address


def test_hosts_entries(lab: Lab, api: Api) -> None:
    pod = prober(lab, api, hostname="dns-querier-1", subdomain=HEADLESS)
    own = _ip(api, "dns-querier-1")

    for name in (f"dns-querier-1.{HEADLESS}.{api.namespace}.svc.cluster.local", "dns-querier-1"):
        assert own in pod.run("getent", "hosts", name)


def test_services(lab: Lab, api: Api) -> None:
    regular = create_services(api)
    pod = prober(lab, api)
    own = _ip(api, "dns-querier-1")
    zone = f"{api.namespace}.svc.cluster.local"
    reverse = ipaddress.ip_address(regular).reverse_pointer

    daemon.wait_until(
        lambda: pod.addresses(f"{HEADLESS}.{zone}") == {own}, "the pod is in its Service"
    )
    for way in ("+notcp", "+tcp"):
        assert pod.dig(way, f"{HEADLESS}.{zone}", "A") == own
        endpoint = f"0 100 {PORT} {own.replace('.', '-')}.{HEADLESS}.{zone}."
        assert pod.dig(way, f"_http._tcp.{HEADLESS}.{zone}", "SRV") == endpoint
        service = f"0 100 {PORT} {REGULAR}.{zone}."
        assert pod.dig(way, f"_http._tcp.{REGULAR}.{zone}", "SRV") == service
        assert pod.dig(way, reverse, "PTR") == f"{REGULAR}.{zone}."
        dashed = f"{own.replace('.', '-')}.{api.namespace}.pod.cluster.local"
        assert pod.dig(way, dashed, "A") == own


def test_partial_names_of_services(lab: Lab, api: Api) -> None:
    create_services(api)
    pod = prober(lab, api)
    own = _ip(api, "dns-querier-1")
    daemon.wait_until(lambda: pod.addresses(HEADLESS) == {own}, "the pod is in its Service")

    for name in (HEADLESS, f"{HEADLESS}.{api.namespace}", f"{HEADLESS}.{api.namespace}.svc"):
        assert pod.addresses(name) == {own}
        assert pod.dig(name, "A") == own
    for service in (HEADLESS, REGULAR):
        assert pod.dig(f"_http._tcp.{service}.{api.namespace}.svc", "SRV")


def test_the_hostname_of_a_pod(lab: Lab, api: Api) -> None:
    create_services(api)
    pod = prober(lab, api, "dns-querier-2", hostname="dns-querier-2", subdomain=HEADLESS)
    own = _ip(api, "dns-querier-2")
    name = f"dns-querier-2.{HEADLESS}.{api.namespace}.svc.cluster.local"

    daemon.wait_until(lambda: pod.dig(name, "A") == own, "the pod has its name")
    assert pod.dig("+tcp", name, "A") == own
    assert pod.addresses(name) == {own}


def test_the_subdomain_of_a_pod(lab: Lab, api: Api) -> None:
    create_services(api)
    pod = prober(lab, api, "dns-querier-2", hostname="dns-querier-2", subdomain=HEADLESS)
    own = _ip(api, "dns-querier-2")

    daemon.wait_until(lambda: pod.dig(HEADLESS, "A") == own, "the pod is in its Service")
    assert pod.dig(f"{HEADLESS}.{api.namespace}.svc.cluster.local", "A") == own


def test_external_names(lab: Lab, api: Api) -> None:
    spec = {"type": "ExternalName", "externalName": "foo.example.com"}
    api.create("Service", "dns-test-service-3", {"spec": spec})
    pod = prober(lab, api)
    name = f"dns-test-service-3.{api.namespace}.svc.cluster.local"

    def first() -> str:
        return pod.dig(name, "CNAME")

    daemon.wait_until(lambda: first() == "foo.example.com.", "the CNAME is there")
    api.patch("Service", "dns-test-service-3", {"spec": {"externalName": "bar.example.com"}})
    daemon.wait_until(lambda: first() == "bar.example.com.", "the CNAME has changed")
    changed_to = {"type": "ClusterIP", "externalName": None, "ports": PORTS}
    changed = api.patch("Service", "dns-test-service-3", {"spec": changed_to})
    daemon.wait_until(
        lambda: pod.dig(name, "A") == changed["spec"]["clusterIP"], "it has an address instead"
    )


def test_nameservers_of_a_pods_own(lab: Lab, api: Api) -> None:
    asked = {"nameservers": ["192.0.2.53"], "searches": ["resolv.conf.local"]}
    pod = prober(lab, api, dnsPolicy="None", dnsConfig=asked)

    assert pod.run("cat", "/etc/resolv.conf").splitlines() == [
        "nameserver 192.0.2.53",
        "search resolv.conf.local",
    ]
