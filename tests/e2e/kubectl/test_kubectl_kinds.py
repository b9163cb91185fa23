"""kubectl with Ingresses, configuration and the Gateway API in the simulated cluster."""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kproxy.simulator import certificates, cluster
from kproxy.simulator.api import emulation
from tests import kubectl as kubectls
from tests.e2e.rig import simulation
from tests.kubectl import Kubectl

PROGRAMS = kubectls.last()
SERVICE_CIDR, POD_CIDR = "127.93.0.0/16", "127.243.0.0/16"
EXAMPLES = Path(__file__).parents[3] / "examples"

pytestmark = pytest.mark.skipif(not PROGRAMS, reason="no kubectl: install kubernetes-client")

OLD_INGRESS = """
apiVersion: networking.k8s.io/v1beta1
kind: Ingress
metadata: {name: old}
spec:
  rules:
  - host: old.example
    http: {paths: [{path: /, backend: {serviceName: web, servicePort: http}}]}
"""
GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: kproxy}
spec: {controllerName: kproxy.io/gateway}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  gatewayClassName: kproxy
  listeners: [{name: redis, port: 16379, protocol: TCP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: redis}
spec:
  parentRefs: [{name: gw, sectionName: redis}]
  rules: [{backendRefs: [{name: redis, port: 16379}]}]
"""


def started(
    request: pytest.FixtureRequest, folder: Path, emulate: emulation.Version
) -> Iterator[Kubectl]:
    """A kubectl that finds a fresh cluster."""
    options = cluster.Options(
        service_cidr=SERVICE_CIDR, pod_cidr=POD_CIDR, nodes=1, emulate=emulate
    )
    with simulation.simulated(options) as (running, _):
        running.faults.clear()  # an old server has no roles for a moment
        (folder / "kubeconfig").write_text(json.dumps(running.kubeconfig))
        yield Kubectl(request.param, folder)


@pytest.fixture(params=PROGRAMS)
def kubectl(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kubectl]:
    yield from started(request, tmp_path, emulation.Version.V1_33)


@pytest.fixture(params=PROGRAMS)
def old_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kubectl]:
    yield from started(request, tmp_path, emulation.Version.V1_20)


def rows(table: str) -> list[list[str]]:
    """The cells of a table, without the age at the end of each row; the head first."""
    head, *found = table.splitlines()
    return [head.split(), *(row.split()[:-1] for row in found)]


def test_an_ingress_with_its_secret(kubectl: Kubectl, tmp_path: Path) -> None:
    made = certificates.self_signed(["127.0.0.1"], ["shop.example"], datetime.now(UTC))
    (tmp_path / "c.pem").write_bytes(made.pem)
    (tmp_path / "k.pem").write_bytes(made.key)
    pair = (f"--cert={tmp_path / 'c.pem'}", f"--key={tmp_path / 'k.pem'}")
    kubectl("create", "secret", "tls", "shop", *pair)
    assert rows(kubectl("get", "secrets", "--field-selector=type=kubernetes.io/tls")) == [
        ["NAME", "TYPE", "DATA", "AGE"],
        ["shop", "kubernetes.io/tls", "2"],
    ]
    assert f"tls.crt:  {len(made.pem)} bytes" in kubectl("describe", "secret", "shop")

    rules = ("--rule=shop.example/users*=users:8080,tls=shop", "--rule=*.shop.example/=orders:http")
    kubectl("create", "ingress", "web", "--class=kproxy", *rules)
    paths = [
        rule["http"]["paths"][0] for rule in kubectl.json("get", "ingress", "web")["spec"]["rules"]
    ]
    assert [(path["path"], path["pathType"]) for path in paths] == [
        ("/users", "Prefix"),
        ("/", "Exact"),
    ]
    status = '{"status": {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}}'
    path = "/apis/networking.k8s.io/v1/namespaces/default/ingresses/web/status"
    whole = kubectl.json("get", "ingress", "web") | json.loads(status)
    kubectl("replace", "--raw", path, "-f", "-", stdin=json.dumps(whole))
    listed = kubectl("get", "ing")
    assert listed.splitlines()[0].split() == [
        *("NAME", "CLASS", "HOSTS", "ADDRESS", "PORTS", "AGE"),
    ]
    assert "web    kproxy   shop.example,*.shop.example   127.0.0.1   80, 443" in listed
    described = kubectl("describe", "ingress", "web")
    for fact in ("shop terminates shop.example", "/users   users:8080", "127.0.0.1"):
        assert fact in described
    assert "IngressBackend" in kubectl("explain", "ingress.spec.defaultBackend")


@pytest.mark.extra
def test_what_kubectl_says_of_a_wrong_ingress(kubectl: Kubectl) -> None:
    refused = kubectl.run("create", "ingress", "web", "--rule=a.example/=web:80", "--class=A_B")
    assert refused.returncode == 1
    assert (
        'Ingress.networking.k8s.io "web" is invalid: spec.ingressClassName: Invalid value: "A_B": '
        "a lowercase RFC 1123 subdomain must consist of"
    ) in refused.stderr
    refused = kubectl.run("apply", "-f", "-", stdin=OLD_INGRESS.replace("v1beta1", "v1"))
    assert 'unknown field "serviceName"' in refused.stderr
    refused = kubectl.run("apply", "-f", "-", stdin=OLD_INGRESS)
    assert 'no matches for kind "Ingress" in version "networking.k8s.io/v1beta1"' in refused.stderr


@pytest.mark.extra
def test_configuration(kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "settings", "--from-literal=colour=red")
    kubectl("create", "secret", "generic", "password", "--from-literal=p=hunter2")
    kubectl("create", "serviceaccount", "robot")
    assert rows(kubectl("get", "cm", "settings")) == [["NAME", "DATA", "AGE"], ["settings", "1"]]
    accounts = rows(kubectl("get", "sa"))
    assert accounts == [["NAME", "SECRETS", "AGE"], ["default", "0"], ["robot", "0"]]
    stored = kubectl.json("get", "secret", "password")["data"]["p"]
    assert base64.b64decode(stored) == b"hunter2"
    kubectl("patch", "cm", "settings", "-p", '{"immutable": true}')
    refused = kubectl.run("patch", "cm", "settings", "-p", '{"data": {"colour": "blue"}}')
    assert "data: Forbidden: field is immutable when `immutable` is set" in refused.stderr
    kubectl("delete", "cm/settings", "secret/password", "sa/robot")
    assert "kube-root-ca.crt" in kubectl("get", "cm", "-n", "kube-system")


def test_the_gateway_api(kubectl: Kubectl) -> None:
    assert kubectl("apply", "-f", "-", stdin=GATEWAY).count("created") == 3
    kubectl("apply", "-f", "-", stdin=GATEWAY)
    assert rows(kubectl("get", "gtw")) == [
        ["NAME", "CLASS", "ADDRESS", "PROGRAMMED", "AGE"],
        ["gw", "kproxy", "Unknown"],
    ]
    assert rows(kubectl("get", "gc")) == [
        ["NAME", "CONTROLLER", "ACCEPTED", "AGE"],
        ["kproxy", "kproxy.io/gateway", "Unknown"],
    ]
    everything = kubectl("get", "gateway-api", "-o", "name").split()
    assert everything == [
        f"{name}.gateway.networking.k8s.io/{each}"
        for name, each in (("gatewayclass", "kproxy"), ("gateway", "gw"), ("tcproute", "redis"))
    ]
    kubectl("label", "gateway", "gw", "a=b")
    wrong = GATEWAY.replace("name: redis, port: 16379", "name: redis, port: 0")
    refused = kubectl.run("apply", "-f", "-", stdin=wrong)
    assert "spec.listeners[0].port in body should be greater than or equal to 1" in refused.stderr
    refused = kubectl.run("apply", "-f", "-", stdin=GATEWAY.replace("backendRefs", "backends"))
    assert 'unknown field "backends"' in refused.stderr
    assert "weight" in kubectl("explain", "tcproute.spec.rules.backendRefs")
    assert kubectl("delete", "-f", "-", stdin=GATEWAY).count("deleted") == 3


def test_an_old_server_has_old_ingresses(old_server: Kubectl) -> None:
    assert "ingress.networking.k8s.io/old created" in old_server(
        "apply", "-f", "-", stdin=OLD_INGRESS
    )
    changed = OLD_INGRESS.replace("servicePort: http", "servicePort: 8080")
    assert "configured" in old_server("apply", "-f", "-", stdin=changed)
    shown = old_server.json("get", "ingresses.v1.networking.k8s.io", "old")
    (path,) = shown["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"] == {"service": {"name": "web", "port": {"number": 8080}}}
    for version in ("v1beta1.networking.k8s.io", "v1beta1.extensions"):
        shown = old_server.json("get", f"ingresses.{version}", "old")
        (path,) = shown["spec"]["rules"][0]["http"]["paths"]
        assert path["backend"] == {"serviceName": "web", "servicePort": 8080}
    assert "old    <none>   old.example" in old_server("get", "ing")
