"""The official Python client with Ingresses, configuration and the Gateway API."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from kubernetes import watch

from kproxy.simulator import cluster
from tests.e2e.rig import simulation

SERVICE_CIDR, POD_CIDR = "127.94.0.0/16", "127.242.0.0/16"
CLIENT: Any = kubernetes.client
WATCH: Any = watch
"""Untyped: the types of the generated code are not worth following."""
GROUP, VERSION = "gateway.networking.k8s.io", "v1"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of a fresh cluster."""
    options = cluster.Options(service_cidr=SERVICE_CIDR, pod_cidr=POD_CIDR, nodes=1)
    with simulation.simulated(options) as (running, _):
        kubeconfig = tmp_path_factory.mktemp("client") / "kubeconfig"
        kubeconfig.write_text(json.dumps(running.kubeconfig))
        client = client_of(kubeconfig)
        yield client
        client.rest_client.pool_manager.clear()


def client_of(kubeconfig: Path) -> Any:
    return kubernetes.config.new_client_from_config(str(kubeconfig))  # type: ignore[no-untyped-call]


def test_an_ingress_as_typed_objects(api: Any) -> None:
    networking = CLIENT.NetworkingV1Api(api)
    backend = CLIENT.V1IngressBackend(
        service=CLIENT.V1IngressServiceBackend(
            name="web", port=CLIENT.V1ServiceBackendPort(number=8080)
        )
    )
    path = CLIENT.V1HTTPIngressPath(path="/", path_type="Prefix", backend=backend)
    rule = CLIENT.V1IngressRule(host="a.example", http=CLIENT.V1HTTPIngressRuleValue(paths=[path]))
    networking.create_ingress_class(
        CLIENT.V1IngressClass(
            metadata=CLIENT.V1ObjectMeta(name="kproxy"),
            spec=CLIENT.V1IngressClassSpec(controller="kproxy.io/ingress"),
        )
    )
    watching = WATCH.Watch()
    seen = watching.stream(networking.list_namespaced_ingress, "default", timeout_seconds=30)
    made = networking.create_namespaced_ingress(
        "default",
        CLIENT.V1Ingress(
            metadata=CLIENT.V1ObjectMeta(name="web"),
            spec=CLIENT.V1IngressSpec(ingress_class_name="kproxy", rules=[rule]),
        ),
    )
    assert made.spec.rules[0].http.paths[0].backend.service.port.number == 8080
    address = {"status": {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}}
    networking.patch_namespaced_ingress_status("web", "default", address)
    found = networking.read_namespaced_ingress("web", "default")
    assert found.status.load_balancer.ingress[0].ip == "127.0.0.1"
    assert found.metadata.generation == 1
    addressed = []
    for event in seen:
        if event["object"].status.load_balancer.ingress:
            addressed.append(event["object"].metadata.name)
            watching.stop()  # and the loop ends: only so is the socket closed here and now
    assert addressed == ["web"]
    networking.delete_namespaced_ingress("web", "default")
    with pytest.raises(CLIENT.ApiException) as absent:
        networking.read_namespaced_ingress("web", "default")
    assert absent.value.status == 404


@pytest.mark.extra
def test_configuration_as_typed_objects(api: Any) -> None:
    core = CLIENT.CoreV1Api(api)
    core.create_namespaced_secret(
        "default",
        CLIENT.V1Secret(
            metadata=CLIENT.V1ObjectMeta(name="s"), string_data={"a": "b"}, type="x.io/y"
        ),
    )
    (found,) = core.list_namespaced_secret("default", field_selector="type=x.io/y").items
    assert base64.b64decode(found.data["a"]) == b"b"
    settings = CLIENT.V1ConfigMap(metadata=CLIENT.V1ObjectMeta(name="c"), data={"a": "b"})
    core.create_namespaced_config_map("default", settings)
    assert core.read_namespaced_config_map("c", "default").data == {"a": "b"}
    assert core.read_namespaced_service_account("default", "default").metadata.name == "default"


def test_custom_objects(api: Any) -> None:
    custom = CLIENT.CustomObjectsApi(api)
    place = (GROUP, VERSION, "default", "udproutes")
    body: dict[str, Any] = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "UDPRoute",
        "metadata": {"name": "dns"},
        "spec": {"rules": [{"backendRefs": [{"name": "dns", "port": 53}]}]},
    }
    made = custom.create_namespaced_custom_object(*place, body)
    assert made["spec"]["rules"][0]["backendRefs"][0]["weight"] == 1
    parent = {
        "parentRef": {"name": "gw"},
        "controllerName": "kproxy.io/gateway",
        "conditions": [
            {
                "type": "Accepted",
                "status": "True",
                "reason": "Accepted",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }
    status = {"status": {"parents": [parent]}}
    patched = custom.patch_namespaced_custom_object_status(*place, "dns", status)
    assert patched["status"]["parents"][0]["parentRef"]["kind"] == "Gateway"
    listed = custom.list_namespaced_custom_object(*place)
    assert [each["metadata"]["name"] for each in listed["items"]] == ["dns"]
    wrong = {**body, "metadata": {"name": "wrong"}, "spec": {"rules": []}}
    with pytest.raises(CLIENT.ApiException) as refused:
        custom.create_namespaced_custom_object(*place, wrong)
    assert refused.value.status == 422
    custom.delete_namespaced_custom_object(*place, "dns")
