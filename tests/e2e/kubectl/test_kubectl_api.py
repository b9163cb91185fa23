"""kubectl, of each version that is there, against the simulated cluster."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.simulator import cluster
from tests import kubectl as kubectls
from tests.e2e.rig import simulation
from tests.kubectl import Kubectl

PROGRAMS = kubectls.first_and_last()
MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: nginx, ports: [{containerPort: 18080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec: {selector: {app: web}, ports: [{name: http, port: 18080}]}
"""
SERVICE_CIDR, POD_CIDR = "127.93.0.0/16", "127.243.0.0/16"

pytestmark = pytest.mark.skipif(not PROGRAMS, reason="no kubectl: install kubernetes-client")


@pytest.fixture(params=PROGRAMS)
def kubectl(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kubectl]:
    """A kubectl that finds a fresh cluster."""
    options = cluster.Options(service_cidr=SERVICE_CIDR, pod_cidr=POD_CIDR, nodes=2)
    with simulation.simulated(options) as (running, _):
        (tmp_path / "kubeconfig").write_text(json.dumps(running.kubeconfig))
        yield Kubectl(request.param, tmp_path)


@pytest.fixture
def applied(kubectl: Kubectl) -> Kubectl:
    kubectl("apply", "-f", "-", stdin=MANIFEST)
    kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    return kubectl


def test_apply(kubectl: Kubectl) -> None:
    assert kubectl("apply", "-f", "-", stdin=MANIFEST).count("created") == 2
    assert kubectl("apply", "-f", "-", stdin=MANIFEST).count("unchanged") == 2
    more = kubectl("apply", "-f", "-", stdin=MANIFEST.replace("replicas: 2", "replicas: 3"))
    assert "deployment.apps/web configured" in more
    kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    assert len(kubectl.json("get", "pods", "-l", "app=web")["items"]) == 3
    misspelt = kubectl.run("apply", "-f", "-", stdin=MANIFEST.replace("containerPort", "portt"))
    assert misspelt.returncode != 0
    assert 'unknown field "portt"' in misspelt.stderr


def test_get(applied: Kubectl) -> None:
    assert applied("get", "services", "web").split()[:3] == ["NAME", "TYPE", "CLUSTER-IP"]
    assert "127.243." in applied("get", "pods", "-o", "wide")
    assert "kind: Service" in applied("get", "service", "web", "-o", "yaml")
    assert applied("get", "services", "-l", "app=web", "-o", "name") == "service/web\n"
    selected = applied("get", "pods", "--field-selector=spec.nodeName=node-1", "-o", "name")
    assert selected.count("pod/web-") == 1
    assert "kube-system" in applied("get", "namespaces")
    assert "default" in applied("get", "endpoints,endpointslices", "--all-namespaces")
    everything = applied("get", "all")
    for name in ("pod/web-", "service/web", "deployment.apps/web"):
        assert name in everything
    assert "NotFound" in applied.run("get", "service", "absent").stderr


def test_watching(applied: Kubectl) -> None:
    columns = "custom-columns=NAME:.metadata.name,COLOUR:.metadata.labels.colour"
    with applied.streaming("get", "service", "web", "-w", "-o", columns) as lines:
        assert next(lines).split() == ["NAME", "COLOUR"]
        assert next(lines).split() == ["web", "<none>"]
        applied("label", "service", "web", "colour=red")
        assert next(lines).split() == ["web", "red"]
        applied("label", "service", "web", "colour=blue", "--overwrite")
        assert next(lines).split() == ["web", "blue"]
    plain = applied("get", "service", "web", "-w", "--request-timeout=10s").splitlines()
    assert [line.split()[0] for line in plain] == ["NAME", "web"]


def test_describe(applied: Kubectl) -> None:
    for what, told in (
        (("service", "web"), "127.93."),
        (("pods",), "Started container web"),
        (("deployment", "web"), "2 desired | 2 updated | 2 total | 2 available"),
        (("node", "node-1"), "KubeletReady"),
        (("endpoints", "web"), "127.243."),
        (("endpointslices", "-l", "kubernetes.io/service-name=web"), "127.243."),
    ):
        assert told in applied("describe", *what)


def test_changing(applied: Kubectl) -> None:
    applied("scale", "deployment", "web", "--replicas=1")
    applied("rollout", "status", "deployment/web", "--timeout=60s")
    assert applied.json("get", "deployment", "web")["status"]["readyReplicas"] == 1
    applied("edit", "deployment", "web", editor="sed -i s/nginx/httpd/")
    applied("rollout", "status", "deployment/web", "--timeout=60s")
    applied("patch", "service", "web", "-p", '{"metadata":{"labels":{"a":"1"}}}')
    applied("patch", "service", "web", "--type=merge", "-p", '{"metadata":{"labels":{"b":"2"}}}')
    operations = '[{"op":"replace","path":"/metadata/labels/b","value":"3"}]'
    applied("patch", "service", "web", "--type=json", "-p", operations)
    applied("label", "service", "web", "c=4", "app-")
    applied("annotate", "service", "web", "note=here")
    metadata = applied.json("get", "service", "web")["metadata"]
    assert metadata["labels"] == {"a": "1", "b": "3", "c": "4"}
    assert metadata["annotations"]["note"] == "here"


def test_a_replace_from_a_stale_version_conflicts(applied: Kubectl) -> None:
    old = applied("get", "service", "web", "-o", "json")
    applied("label", "service", "web", "newer=yes")
    refused = applied.run("replace", "-f", "-", stdin=old)
    assert "the object has been modified" in refused.stderr


def test_creating_and_deleting(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "other")
    inside = ("-n", "other")
    kubectl(*inside, "create", "deployment", "web", "--image=nginx")
    kubectl(*inside, "create", "service", "clusterip", "web", "--tcp=18080:18081")
    kubectl(*inside, "rollout", "status", "deployment/web", "--timeout=60s")
    port = kubectl.json(*inside, "get", "service", "web")["spec"]["ports"][0]
    assert (port["port"], port["targetPort"]) == (18080, 18081)
    kubectl(*inside, "delete", "service", "web")
    kubectl("delete", "namespace", "other")
    assert "other" not in kubectl("get", "namespaces", "-o", "name")


def test_what_the_server_documents_of_itself(kubectl: Kubectl) -> None:
    assert "selector" in kubectl("explain", "service.spec")
    assert "endpointslices" in kubectl("api-resources")
    assert "ok" in kubectl("get", "--raw", "/readyz")


def test_faults_by_hand(kubectl: Kubectl) -> None:
    order = json.dumps({"kind": "forbidden", "resource": "nodes", "count": 1})
    kubectl("create", "--raw", "/simulator/faults", "-f", "-", stdin=order)
    assert json.loads(kubectl("get", "--raw", "/simulator/faults"))["items"][0]["count"] == 1
    assert "Forbidden" in kubectl.run("get", "nodes").stderr
    assert "node-1" in kubectl("get", "nodes")
    kubectl("create", "--raw", "/simulator/faults", "-f", "-", stdin=order)
    kubectl("delete", "--raw", "/simulator/faults")
    assert "node-1" in kubectl("get", "nodes")
