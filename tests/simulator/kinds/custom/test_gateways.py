"""GatewayClasses, Gateways and routes, by the schemas and the rules of their definitions."""

import copy
from typing import Any

import pytest

from kproxy.simulator.store import registry, resources, statuses
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object
from tests.simulator.objects import ruled_registry

LISTENER = {"name": "redis", "port": 6379, "protocol": "TCP"}
SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"


@pytest.fixture
def objects() -> registry.Registry:
    return ruled_registry()


def gateway(*listeners: Any, **spec: Any) -> Object:
    shown = listeners or (LISTENER,)
    return {
        "metadata": {"name": "gw", "namespace": "default"},
        "spec": {"gatewayClassName": "kproxy", "listeners": list(shown), **spec},
    }


def route(*backends: Any, **spec: Any) -> Object:
    shown = backends or ({"name": "redis", "port": 6379},)
    return {
        "metadata": {"name": "r", "namespace": "default"},
        "spec": {"rules": [{"backendRefs": list(shown)}], **spec},
    }


def refusal(objects: registry.Registry, resource: Resource, new: Object) -> str:
    with pytest.raises(statuses.StatusError) as refused:
        objects.create(resource, new)
    head = f'{resource.kind}.gateway.networking.k8s.io "{new["metadata"]["name"]}" is invalid: '
    assert str(refused.value).startswith(head)
    return str(refused.value).removeprefix(head)


def test_a_gateway_has_defaults_and_waits_for_its_controller(objects: registry.Registry) -> None:
    given = gateway({**LISTENER, "unknown": 1}, other=2)
    before = copy.deepcopy(given)
    stored = objects.create(resources.GATEWAYS, given)
    assert given == before
    assert stored["spec"] == {
        "gatewayClassName": "kproxy",
        "listeners": [{**LISTENER, "allowedRoutes": {"namespaces": {"from": "Same"}}}],
    }
    assert [(each["type"], each["status"]) for each in stored["status"]["conditions"]] == [
        ("Accepted", "Unknown"),
        ("Programmed", "Unknown"),
    ]


@pytest.mark.parametrize(
    ("new", "complaint"),
    [
        (
            {"metadata": {"name": "gw", "namespace": "default"}},
            "spec: Required value",
        ),
        (
            gateway(listeners=[]),
            "spec.listeners: Invalid value: 0: spec.listeners in body should have at least 1 items",
        ),
        (
            gateway(gatewayClassName=""),
            (
                'spec.gatewayClassName: Invalid value: "": spec.gatewayClassName in '
                "body should be at "
                "least 1 chars long"
            ),
        ),
        (
            gateway({"name": "a"}),
            "[spec.listeners[0].port: Required value, spec.listeners[0].protocol: Required value]",
        ),
        (
            gateway({**LISTENER, "port": 65536}),
            (
                "spec.listeners[0].port: Invalid value: 65536: spec.listeners[0].port "
                "in body should "
                "be less than or equal to 65535"
            ),
        ),
        (
            gateway({**LISTENER, "port": "redis"}),
            (
                'spec.listeners[0].port: Invalid value: "string": '
                "spec.listeners[0].port in body must "
                'be of type integer: "string"'
            ),
        ),
        (
            gateway({**LISTENER, "name": "Redis"}),
            (
                'spec.listeners[0].name: Invalid value: "Redis": spec.listeners[0].name in body '
                f"should match '{SUBDOMAIN}'"
            ),
        ),
        (
            gateway(LISTENER, {**LISTENER, "port": 6380}),
            (
                '[spec.listeners[1]: Duplicate value: {"name":"redis"}, '
                "spec.listeners: Invalid value: "
                '"array": Listener name must be unique within the Gateway]'
            ),
        ),
        (
            gateway(LISTENER, {**LISTENER, "name": "other"}),
            (
                'spec.listeners: Invalid value: "array": Combination of port, '
                "protocol and hostname "
                "must be unique for each listener"
            ),
        ),
        (
            gateway({**LISTENER, "hostname": "a.example"}),
            (
                'spec.listeners: Invalid value: "array": hostname must not be '
                "specified for protocols "
                "['TCP', 'UDP']"
            ),
        ),
        (
            gateway({**LISTENER, "tls": {"mode": "Passthrough"}}),
            (
                'spec.listeners: Invalid value: "array": tls must not be specified for protocols '
                "['HTTP', 'TCP', 'UDP']"
            ),
        ),
        (
            gateway({**LISTENER, "protocol": "HTTPS", "tls": {}}),
            (
                'spec.listeners[0].tls: Invalid value: "object": certificateRefs or '
                "options must be "
                "specified when mode is Terminate"
            ),
        ),
        (
            gateway({**LISTENER, "allowedRoutes": {"namespaces": {"from": "None"}}}),
            (
                'spec.listeners[0].allowedRoutes.namespaces.from: Unsupported value: "None": '
                'supported values: "All", "Selector", "Same"'
            ),
        ),
        (
            gateway(*({**LISTENER, "name": f"l{n}", "port": n} for n in range(1, 66))),
            "spec.listeners: Too many: 65: must have at most 64 items",
        ),
        (
            gateway(addresses=[{"value": "127.0.0.1"}, {"value": "127.0.0.1"}]),
            'spec.addresses: Invalid value: "array": IPAddress values must be unique',
        ),
        (
            gateway(infrastructure={"labels": {"a": "x" * 64}}),
            "spec.infrastructure.labels.a: Too long: may not be more than 63 bytes",
        ),
    ],
)
def test_a_gateway_is_refused_as_by_its_definition(
    objects: registry.Registry, new: Object, complaint: str
) -> None:
    assert refusal(objects, resources.GATEWAYS, new) == complaint


def test_a_refusal_costs_no_more_than_the_size_of_the_object(objects: registry.Registry) -> None:
    """Either of these would take minutes if it cost the square of its size."""
    many = [{**LISTENER, "name": f"l{number}"} for number in range(100_000)]
    said = refusal(objects, resources.GATEWAYS, gateway(listeners=many))
    assert said == "spec.listeners: Too many: 100000: must have at most 64 items"
    long = {**LISTENER, "protocol": "a" * 1_000_000}
    said = refusal(objects, resources.GATEWAYS, gateway(long))
    assert said == "spec.listeners[0].protocol: Too long: may not be more than 255 bytes"


@pytest.mark.parametrize("resource", [resources.TCP_ROUTES, resources.UDP_ROUTES], ids=str)
def test_a_route_has_defaults(objects: registry.Registry, resource: Resource) -> None:
    stored = objects.create(resource, route(parentRefs=[{"name": "gw"}]))
    assert stored["spec"] == {
        "parentRefs": [
            {"name": "gw", "group": "gateway.networking.k8s.io", "kind": "Gateway"},
        ],
        "rules": [
            {
                "backendRefs": [
                    {"name": "redis", "port": 6379, "group": "", "kind": "Service", "weight": 1}
                ]
            }
        ],
    }
    assert "status" not in stored
    assert stored["metadata"]["generation"] == 1


BACKEND = "spec.rules[0].backendRefs"
SAME = "when parentRefs includes 2 or more references to the same parent"


@pytest.mark.parametrize(
    ("new", "complaint"),
    [
        (
            route(rules=[]),
            "spec.rules: Invalid value: 0: spec.rules in body should have at least 1 items",
        ),
        (
            route(rules=[{"backendRefs": []}]),
            f"{BACKEND}: Invalid value: 0: {BACKEND} in body should have at least 1 items",
        ),
        (
            route(*({"name": "a", "port": 1} for _ in range(17))),
            f"{BACKEND}: Too many: 17: must have at most 16 items",
        ),
        (
            route({"name": "a", "port": 1, "weight": 1_000_001}),
            (
                f"{BACKEND}[0].weight: Invalid value: 1000001: {BACKEND}[0].weight in "
                f"body should be "
                "less than or equal to 1000000"
            ),
        ),
        (
            route({"name": "a"}),
            f'{BACKEND}[0]: Invalid value: "object": Must have port for Service reference',
        ),
        (
            route(parentRefs=[{"name": "gw"}, {"name": "gw", "sectionName": "a"}]),
            f'spec.parentRefs: Invalid value: "array": sectionName must be specified {SAME}',
        ),
        (
            route(parentRefs=[{"name": "gw"}, {"name": "gw"}]),
            f'spec.parentRefs: Invalid value: "array": sectionName must be unique {SAME}',
        ),
    ],
)
def test_a_route_is_refused_as_by_its_definition(
    objects: registry.Registry, new: Object, complaint: str
) -> None:
    assert refusal(objects, resources.TCP_ROUTES, new) == complaint


@pytest.mark.parametrize(
    "parents",
    [
        [{"name": "a"}, {"name": "b"}, {"name": "a", "namespace": "other"}],
        [{"name": "a", "sectionName": "x"}, {"name": "a", "sectionName": "y"}],
    ],
)
def test_a_route_may_have_several_parents(
    objects: registry.Registry, parents: list[Object]
) -> None:
    stored = objects.create(resources.UDP_ROUTES, route(parentRefs=parents))
    added = {"group": "gateway.networking.k8s.io", "kind": "Gateway"}
    assert stored["spec"]["parentRefs"] == [each | added for each in parents]


def test_a_backend_that_is_no_service_needs_no_port(objects: registry.Registry) -> None:
    bucket = {"name": "a", "kind": "Bucket", "group": "x.io"}
    stored = objects.create(resources.UDP_ROUTES, route(bucket))
    assert stored["spec"]["rules"] == [{"backendRefs": [{**bucket, "weight": 1}]}]


def test_a_grant_has_no_status_and_needs_both_lists(objects: registry.Registry) -> None:
    origin = {"group": "gateway.networking.k8s.io", "kind": "TCPRoute", "namespace": "a"}
    new: Object = {
        "metadata": {"name": "g", "namespace": "default"},
        "spec": {"from": [origin], "to": [{"group": "", "kind": "Service"}]},
        "status": {"conditions": []},
    }
    stored = objects.create(resources.REFERENCE_GRANTS, new)
    assert stored["spec"] == new["spec"]
    assert "status" not in stored
    for field in ("from", "to"):
        name = {"name": field, "namespace": "default"}
        less = {"metadata": name, "spec": {**new["spec"], field: []}}
        said = refusal(objects, resources.REFERENCE_GRANTS, less)
        assert said == (
            f"spec.{field}: Invalid value: 0: spec.{field} in body should have at least 1 items"
        )


def test_the_controller_of_a_class_stays(objects: registry.Registry) -> None:
    given = {"metadata": {"name": "kproxy"}, "spec": {"controllerName": "kproxy.io/gateway"}}
    objects.create(resources.GATEWAY_CLASSES, given)
    with pytest.raises(statuses.StatusError) as refused:
        objects.update(resources.GATEWAY_CLASSES, {**given, "spec": {"controllerName": "a.io/b"}})
    assert str(refused.value).endswith(
        'spec.controllerName: Invalid value: "string": field is immutable'
    )


def test_a_status_has_a_schema_too(objects: registry.Registry) -> None:
    stored = objects.create(resources.GATEWAYS, gateway())
    condition = {
        "type": "Accepted",
        "status": "true",
        "reason": "Not a reason",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    with pytest.raises(statuses.StatusError) as refused:
        objects.update_status(resources.GATEWAYS, {**stored, "status": {"conditions": [condition]}})
    assert 'status.conditions[0].status: Unsupported value: "true"' in str(refused.value)
    assert "status.conditions[0].reason: Invalid value" in str(refused.value)
    good = {**condition, "status": "True", "reason": "Accepted"}
    status = {"conditions": [good], "addresses": [{"value": "127.0.0.1"}], "unknown": 1}
    written = objects.update_status(resources.GATEWAYS, {**stored, "status": status})
    assert written["status"] == {
        "conditions": [good],
        "addresses": [{"type": "IPAddress", "value": "127.0.0.1"}],
    }
    assert written["metadata"]["generation"] == 1
