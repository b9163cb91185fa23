"""Ingresses of a cluster: `kubectl apply`, and what kubectl then shows."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.simulator import cluster
from tests import kubectl as kubectls
from tests.e2e import conftest
from tests.e2e.ingress import site
from tests.e2e.rig import daemon, simulation
from tests.kubectl import Kubectl

PROGRAMS = kubectls.first_and_last()[-1:]

pytestmark = pytest.mark.skipif(not PROGRAMS, reason="no kubectl: install kubernetes-client")

PODS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""
INGRESS = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  ingressClassName: kproxy
  rules:
  - host: shop.example
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: SERVICE, port: {number: 80}}}}
"""


@pytest.fixture(params=PROGRAMS)
def kubectl(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kubectl]:
    """A kubectl that finds a fresh cluster, with two pods behind a Service."""
    options = cluster.Options(service_cidr="127.92.0.0/16", pod_cidr="127.242.0.0/16", nodes=1)
    with simulation.simulated(options) as (running, _):
        (tmp_path / "kubeconfig").write_text(json.dumps(running.kubeconfig))
        made = Kubectl(request.param, tmp_path)
        made("apply", "-f", "-", stdin=PODS)
        made("rollout", "status", "deployment/web", "--timeout=30s")
        yield made


def test_an_ingress_is_served_and_its_status_says_where(
    kubectl: Kubectl, tmp_path: Path, run: conftest.Run
) -> None:
    proxy = run(tmp_path / "kubeconfig", *site.FLAGS, source="--kubeconfig")
    kubectl("apply", "-f", "-", stdin=INGRESS.replace("SERVICE", "web"))
    host, _ = site.place(proxy)

    def published() -> list[str]:
        found = kubectl.json("get", "ingress", "web")["status"]["loadBalancer"]
        return [each["ip"] for each in found.get("ingress") or ()]

    daemon.wait_until(lambda: published() == [host], "the address is published")
    daemon.wait_until(lambda: site.ask(proxy)[0] == 200, "the host is served")
    (line,) = kubectl("get", "ingress", "--no-headers").splitlines()
    assert line.split()[:4] == ["web", "kproxy", "shop.example", host]

    assert proxy.stop() == 0
    assert published() == []


@pytest.mark.extra
def test_what_is_wrong_is_an_event(kubectl: Kubectl, tmp_path: Path, run: conftest.Run) -> None:
    kubectl("apply", "-f", "-", stdin=INGRESS.replace("SERVICE", "missing"))
    proxy = run(tmp_path / "kubeconfig", *site.FLAGS, source="--kubeconfig")
    (line,) = proxy.wait_logged("Ingress default/web:", "missing")
    about = ("get", "events", "--field-selector", "involvedObject.kind=Ingress")
    daemon.wait_until(lambda: "missing" in kubectl(*about), "the Event is there")

    assert "warning" in line
    assert "ingress/web" in kubectl(*about)
    assert "missing" in kubectl("describe", "ingress", "web")
