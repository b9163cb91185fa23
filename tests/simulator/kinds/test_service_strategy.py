"""Services as kube-apiserver keeps them: defaults, refusals in its words, addresses and ports."""

import ipaddress
import itertools
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from kproxy.simulator.kinds import addressing, service_strategy
from kproxy.simulator.store import registry, resources, statuses, storage
from kproxy.simulator.store.storage import Object


@pytest.fixture
def objects() -> registry.Registry:
    serial = itertools.count()
    stored = storage.Storage(
        now=lambda: datetime(2026, 1, 1, tzinfo=UTC), new_uid=lambda: f"uid-{next(serial)}"
    )
    rng = random.Random(1)
    cidr = ipaddress.IPv4Network("127.96.0.0/16")
    strategy = service_strategy.ServiceStrategy(
        stored, [addressing.ClusterIPs(cidr, rng)], addressing.NodePorts(rng)
    )
    made = registry.Registry(stored, {resources.SERVICES: strategy})
    made.create(resources.NAMESPACES, {"metadata": {"name": "default"}})
    return made


def service(name: str = "web", **spec: Any) -> Object:
    metadata = {"name": name, "namespace": "default"}
    return {"metadata": metadata, "spec": {"ports": [{"port": 80}], **spec}}


def create(objects: registry.Registry, name: str = "web", **spec: Any) -> Object:
    return objects.create(resources.SERVICES, service(name, **spec))


def patch(objects: registry.Registry, **spec: Any) -> Object:
    body = {"spec": spec}
    return objects.patch(resources.SERVICES, "default", "web", "merge", body)


def refusal(objects: registry.Registry, **spec: Any) -> str:
    with pytest.raises(statuses.StatusError) as refused:
        create(objects, **spec)
    assert (refused.value.code, refused.value.reason) == (422, "Invalid")
    assert objects.list(resources.SERVICES) == []
    return refused.value.message.removeprefix('Service "web" is invalid: ')


def test_defaults_are_those_of_the_api(objects: registry.Registry) -> None:
    spec = create(objects)["spec"]
    assert spec.pop("clusterIPs") == [spec.pop("clusterIP")]
    assert spec == {
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
    }


def test_affinity_gets_its_timeout_and_a_load_balancer_its_policies(
    objects: registry.Registry,
) -> None:
    spec = create(objects, sessionAffinity="ClientIP", type="LoadBalancer")["spec"]
    assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
    assert spec["externalTrafficPolicy"] == "Cluster"
    assert spec["allocateLoadBalancerNodePorts"] is True
    assert 30086 <= spec["ports"][0]["nodePort"] <= 32767
    assert "healthCheckNodePort" not in spec


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param({"ports": []}, "spec.ports: Required value", id="no ports"),
        pytest.param(
            {"ports": [{"port": 70000}]},
            "[spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive, "
            "spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, "
            "inclusive]",
            id="port out of range",
        ),
        pytest.param(
            {"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]},
            'spec.ports[1]: Duplicate value: {"protocol":"TCP","port":80}',
            id="port twice",
        ),
        pytest.param(
            {"ports": [{"port": 80, "name": "a"}, {"port": 81}]},
            "spec.ports[1].name: Required value",
            id="name missing",
        ),
        pytest.param(
            {"ports": [{"port": 80, "nodePort": 30000}]},
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            id="node port of a ClusterIP",
        ),
        pytest.param(
            {"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]},
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. "
            "The range of valid ports is 30000-32767",
            id="node port out of range",
        ),
        pytest.param(
            {"clusterIP": "10.0.0.1"},
            'spec.clusterIPs: Invalid value: ["10.0.0.1"]: failed to allocate IP 10.0.0.1: the '
            "provided IP (10.0.0.1) is not in the valid range. The range of valid IPs is "
            "127.96.0.0/16",
            id="address out of range",
        ),
        pytest.param(
            {"clusterIP": "127.96.0.999"},
            'spec.clusterIPs[0]: Invalid value: "127.96.0.999": must be a valid IP address, '
            "(e.g. 10.9.8.7 or 2001:db8::ffff)",
            id="no address",
        ),
        pytest.param(
            {"type": "NodePort", "clusterIP": "None"},
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort "
            "services",
            id="headless node port",
        ),
        pytest.param(
            {"sessionAffinity": "Cookie"},
            'spec.sessionAffinity: Unsupported value: "Cookie": supported values: "ClientIP", '
            '"None"',
            id="affinity",
        ),
        pytest.param(
            {
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 90000}},
            },
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: must be "
            "greater than 0 and less than 86400",
            id="affinity too long",
        ),
        pytest.param(
            {"externalTrafficPolicy": "Local"},
            'spec.externalTrafficPolicy: Invalid value: "Local": may only be set for '
            "externally-accessible services",
            id="external policy of a ClusterIP",
        ),
        pytest.param(
            {"type": "ExternalName"}, "spec.externalName: Required value", id="no external name"
        ),
        pytest.param(
            {"externalIPs": ["127.0.0.1"]},
            'spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range '
            "(127.0.0.0/8, ::1/128)",
            id="loopback external IP",
        ),
    ],
)
def test_refusals_are_in_the_words_of_kube_apiserver(
    objects: registry.Registry, spec: Object, message: str
) -> None:
    assert refusal(objects, **spec) == message


def test_a_wrong_json_type_is_a_bad_request(objects: registry.Registry) -> None:
    with pytest.raises(statuses.StatusError, match="cannot be handled as a Service") as refused:
        create(objects, ports=[{"port": "eighty"}])
    assert refused.value.code == 400


def test_an_address_and_a_node_port_have_one_owner_until_it_is_deleted(
    objects: registry.Registry,
) -> None:
    wanted: Object = {
        "type": "NodePort",
        "clusterIP": "127.96.0.10",
        "ports": [{"port": 80, "nodePort": 30001}],
    }
    create(objects, **wanted)
    with pytest.raises(statuses.StatusError, match=r"127\.96\.0\.10: provided IP is already all"):
        create(objects, "other", clusterIP="127.96.0.10")
    with pytest.raises(statuses.StatusError, match="30001: provided port is already allocated"):
        create(objects, "other", type="NodePort", ports=wanted["ports"])
    objects.delete(resources.SERVICES, "web", "default")
    create(objects, "other", **wanted)


def test_protocols_of_one_service_may_share_a_node_port(objects: registry.Registry) -> None:
    ports = [
        {"name": protocol.lower(), "port": 53, "protocol": protocol, "nodePort": 30053}
        for protocol in ("TCP", "UDP")
    ]
    assert create(objects, type="NodePort", ports=ports)["spec"]["ports"][1]["nodePort"] == 30053


@pytest.mark.parametrize(
    "attempt", [{"clusterIP": "127.96.0.11"}, {"clusterIP": "None"}], ids=["another", "None"]
)
def test_an_address_may_not_change_once_set(objects: registry.Registry, attempt: Object) -> None:
    create(objects, clusterIP="127.96.0.10")
    with pytest.raises(statuses.StatusError, match="may not change once set"):
        patch(objects, **attempt)


def test_a_replacement_without_address_and_node_port_keeps_them(
    objects: registry.Registry,
) -> None:
    before = create(objects, type="NodePort")["spec"]
    after = objects.update(resources.SERVICES, service(type="NodePort"))["spec"]
    assert after == before


def test_type_changes_take_and_give_back(objects: registry.Registry) -> None:
    before = create(objects, clusterIP="127.96.0.10")
    node_port = patch(objects, type="NodePort")["spec"]["ports"][0]["nodePort"]
    assert node_port

    plain = patch(objects, type="ClusterIP")
    assert {**plain["metadata"], "resourceVersion": ""} == {
        **before["metadata"],
        "resourceVersion": "",
    }
    assert plain["spec"] == before["spec"]
    create(objects, "taker", type="NodePort", ports=[{"port": 80, "nodePort": node_port}])

    external = patch(objects, type="ExternalName", externalName="example.com")["spec"]
    assert "clusterIP" not in external
    create(objects, "heir", clusterIP="127.96.0.10")
    assert patch(objects, type="ClusterIP")["spec"]["clusterIP"] not in {"", "127.96.0.10"}


def test_a_local_load_balancer_gets_a_health_check_port_and_loses_it(
    objects: registry.Registry,
) -> None:
    spec = create(objects, type="LoadBalancer", externalTrafficPolicy="Local")["spec"]
    assert spec["healthCheckNodePort"] not in {0, spec["ports"][0]["nodePort"]}
    assert "healthCheckNodePort" not in patch(objects, externalTrafficPolicy="Cluster")["spec"]


def test_a_headless_service_and_an_external_name_have_no_address(
    objects: registry.Registry,
) -> None:
    assert create(objects, clusterIP="None")["spec"]["clusterIPs"] == ["None"]
    spec = create(objects, "name", type="ExternalName", externalName="example.com")["spec"]
    assert "clusterIP" not in spec


def test_a_dry_run_and_a_refused_create_take_nothing(objects: registry.Registry) -> None:
    objects.create(resources.SERVICES, service(clusterIP="127.96.0.10"), dry_run=True)
    with pytest.raises(statuses.StatusError):
        create(
            objects, clusterIP="127.96.0.10", type="NodePort", ports=[{"port": 1, "nodePort": 1}]
        )
    create(objects, clusterIP="127.96.0.10")


def test_a_dry_run_of_a_change_to_an_external_name_neither_takes_nor_gives(
    objects: registry.Registry,
) -> None:
    stored = create(objects, type="NodePort", ports=[{"port": 80, "nodePort": 30080}])
    ends = {**stored, "spec": {"type": "ExternalName", "externalName": "example.com"}}
    shown = objects.update(resources.SERVICES, ends, dry_run=True)
    assert "clusterIP" not in shown["spec"]
    assert objects.get(resources.SERVICES, "web", "default") == stored
    address = stored["spec"]["clusterIP"]
    for taken in ({"clusterIP": address}, {"type": "NodePort", "ports": stored["spec"]["ports"]}):
        with pytest.raises(statuses.StatusError, match="already allocated"):
            create(objects, "other", **taken)
    objects.update(resources.SERVICES, ends)
    create(objects, "other", clusterIP=address)
