"""A dual-stack simulated cluster: what kubectl shows is what clients of both families reach."""

import ipaddress
import json
import os
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kproxy.simulator import cluster
from tests import kubectl as kubectls
from tests.e2e.rig import daemon, simulation
from tests.kubectl import Kubectl

PROGRAMS = kubectls.last()
PODS = "fd00:10:244::/48"
OPTIONS = cluster.Options(
    service_cidr="127.93.0.0/16,fd00:10:96::/112",
    pod_cidr=f"127.243.0.0/16,{PODS}",
    nodes=2,
)
PATIENCE_SECONDS = 60.0
MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: web:1
        ports:
        - {name: http, containerPort: 18080}
        - {name: dns, containerPort: 15353, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv6, IPv4]
  selector: {app: web}
  ports:
  - {name: http, port: 18080}
  - {name: dns, port: 15353, protocol: UDP}
"""

pytestmark = [
    pytest.mark.skipif(not PROGRAMS, reason="no kubectl: install kubernetes-client"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes addresses this machine's own"),
]


@pytest.fixture
def routed() -> Iterator[None]:
    """Addresses of pods are this network namespace's own."""
    route = ["ip", "-6", "route", "add", "local", PODS, "dev", "lo"]
    subprocess.run(route, check=True)
    try:
        yield
    finally:
        subprocess.run([*route[:3], "del", *route[4:]], check=True)


@pytest.fixture(params=PROGRAMS)
def kubectl(request: pytest.FixtureRequest, routed: None, tmp_path: Path) -> Iterator[Kubectl]:
    """The newest kubectl, with a fresh cluster that has the manifest."""
    del routed
    with simulation.simulated(OPTIONS) as (running, _):
        (tmp_path / "kubeconfig").write_text(json.dumps(running.kubeconfig))
        made = Kubectl(request.param, tmp_path)
        made("apply", "-f", "-", stdin=MANIFEST)
        made("rollout", "status", "deployment/web", "--timeout=60s")
        yield made


def slices(kubectl: Kubectl, *families: str) -> dict[str, dict[str, Any]]:
    """The slices of the Service, once they are of these address types, and each has both pods."""
    found: dict[str, dict[str, Any]] = {}

    def is_so() -> bool:
        listed = kubectl.json("get", "endpointslices", "-l", "kubernetes.io/service-name=web")
        found.clear()
        found.update({each["addressType"]: each for each in listed["items"]})
        counts = {family: len(each.get("endpoints") or ()) for family, each in found.items()}
        return counts == dict.fromkeys(families, 2)

    daemon.wait_until(is_so, f"the slices are of {families}")
    return found


def test_kubectl_shows_both_families(kubectl: Kubectl) -> None:
    spec = kubectl.json("get", "service", "web")["spec"]
    assert (spec["ipFamilies"], spec["ipFamilyPolicy"]) == (["IPv6", "IPv4"], "RequireDualStack")
    versions = [ipaddress.ip_address(each).version for each in spec["clusterIPs"]]
    assert versions == [6, 4]
    assert spec["clusterIP"] == spec["clusterIPs"][0]
    described = kubectl("describe", "service", "web")
    assert "IP Families:" in described
    assert ",".join(spec["clusterIPs"]) in described.replace(", ", ",")
    *shown, age = kubectl("get", "servicecidrs").split()
    assert shown == ["NAME", "CIDRS", "AGE", "kubernetes", OPTIONS.service_cidr]
    assert age
    nodes = kubectl.json("get", "nodes")["items"]
    assert [len(each["spec"]["podCIDRs"]) for each in nodes] == [2, 2]


def test_pods_answer_at_the_addresses_of_both_slices(kubectl: Kubectl) -> None:
    found = slices(kubectl, "IPv4", "IPv6")
    names = {each["metadata"]["name"] for each in kubectl.json("get", "pods")["items"]}
    for family, each in found.items():
        assert [(port["name"], port["port"], port["protocol"]) for port in each["ports"]] == [
            ("dns", 15353, "UDP"),
            ("http", 18080, "TCP"),
        ]
        answered = set()
        for endpoint in each["endpoints"]:
            (address,) = endpoint["addresses"]
            host = f"[{address}]" if family == "IPv6" else address
            with urllib.request.urlopen(f"http://{host}:18080/", timeout=30) as answer:
                text = answer.read().decode()
            assert f"pod: {endpoint['targetRef']['name']}\n" in text
            assert named(address) == endpoint["targetRef"]["name"]
            answered.add(endpoint["targetRef"]["name"])
        assert answered == names


def named(address: str) -> str:
    """What the pod at an address answers to a datagram."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_SECONDS)
        client.connect((address, 15353))
        client.send(b"who are you")
        return client.recv(1024).decode().rstrip("\n")


def test_a_service_gives_its_second_family_up(kubectl: Kubectl) -> None:
    slices(kubectl, "IPv4", "IPv6")
    change = json.dumps({"spec": {"ipFamilyPolicy": "SingleStack"}})
    kubectl("patch", "service", "web", "-p", change)
    slices(kubectl, "IPv6")
    endpoints = kubectl.json("get", "endpoints", "web")["subsets"]
    assert all(":" in each["ip"] for each in endpoints[0]["addresses"])
    assert kubectl.json("get", "service", "web")["spec"]["ipFamilies"] == ["IPv6"]
