"""Gateways and GatewayClasses, as seen through `admission.admit`."""

from typing import Any

import pytest

from kproxy.model import labels
from kproxy.model.kinds.gateway import gateway_class_kind, gateway_kind, references
from tests.gateway import documents

TCP = documents.listener("tcp", 9300)


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_gateway_is_read(version: str) -> None:
    raw = documents.gateway(
        TCP,
        documents.listener("dns", 9300, "UDP", allowedRoutes=documents.allowed(["UDPRoute"])),
        addresses=("203.0.113.7",),
        creationTimestamp="2026-11-28T06:00:00Z",
        generation=3,
    )
    made = documents.accepted({**raw, "apiVersion": f"{documents.GROUP}/{version}"})
    udp_route = references.GroupKind(references.GROUP, "UDPRoute")
    assert made == gateway_kind.Gateway(
        documents.named("edge"),
        "kproxy",
        (
            gateway_kind.Listener("tcp", 9300, "TCP"),
            gateway_kind.Listener("dns", 9300, "UDP", kinds=(udp_route,)),
        ),
        (gateway_kind.Address("IPAddress", "203.0.113.7"),),
        created="2026-11-28T06:00:00Z",
        generation=3,
    )


def test_a_listener_selects_namespaces_by_label() -> None:
    selector = {
        "matchLabels": {"team": "a"},
        "matchExpressions": [
            {"key": "tier", "operator": "NotIn", "values": ["test", "dev"]},
            {"key": "audited", "operator": "Exists"},
            {"key": "frozen", "operator": "DoesNotExist"},
        ],
    }
    allowed = documents.allowed(origin="Selector", selector=selector)
    made = documents.accepted(
        documents.gateway(documents.listener("tcp", 80, allowedRoutes=allowed))
    )
    (listener,) = made.listeners
    assert listener.allowed_from is gateway_kind.From.SELECTOR
    assert labels.match(listener.selector, {"team": "a", "tier": "live", "audited": ""})
    assert not labels.match(listener.selector, {"team": "a", "tier": "dev", "audited": ""})
    assert not labels.match(
        listener.selector, {"team": "a", "tier": "live", "audited": "", "frozen": ""}
    )


def listeners(*given: Any) -> dict[str, Any]:
    return {"listeners": list(given)}


@pytest.mark.parametrize(
    ("spec", "field", "rule"),
    [
        (listeners(), "spec.listeners", "1 to 64"),
        (
            listeners(*(documents.listener(f"l{n}", n + 1) for n in range(65))),
            "spec.listeners",
            "1 to 64",
        ),
        (listeners(TCP, documents.listener("tcp", 9301)), "spec.listeners[1].name", "unique"),
        (listeners(TCP, documents.listener("other", 9300)), "spec.listeners[1].port", "unique"),
        (listeners(documents.listener("tcp", 0)), "spec.listeners[0].port", "1 to 65535"),
        (listeners({"name": "tcp", "protocol": "TCP"}), "spec.listeners[0].port", "1 to 65535"),
        (listeners({"name": "tcp", "port": 1}), "spec.listeners[0].protocol", "must be given"),
        (listeners({**TCP, "name": "No"}), "spec.listeners[0].name", "subdomain"),
        (listeners({**TCP, "hostname": "a.b"}), "spec.listeners[0].hostname", "not be given"),
        (listeners({**TCP, "tls": {}}), "spec.listeners[0].tls", "must not be given with TCP"),
        (
            listeners({**TCP, "allowedRoutes": documents.allowed(origin="None")}),
            "spec.listeners[0].allowedRoutes.namespaces.from",
            "All, Selector or Same",
        ),
        (
            listeners({**TCP, "allowedRoutes": documents.allowed(origin="Selector")}),
            "spec.listeners[0].allowedRoutes.namespaces.selector",
            "must be given",
        ),
        (
            listeners({**TCP, "allowedRoutes": documents.allowed(["TCPRoute"] * 9)}),
            "spec.listeners[0].allowedRoutes.kinds",
            "at most 8",
        ),
        (
            listeners({**TCP, "allowedRoutes": {"kinds": [{"group": "a"}]}}),
            "spec.listeners[0].allowedRoutes.kinds[0].kind",
            "must be given",
        ),
        ({"gatewayClassName": ""}, "spec.gatewayClassName", "must be a name"),
        ({"addresses": [{"value": "ten"}]}, "spec.addresses[0].value", "must be an IP address"),
        (
            {"addresses": [{"value": "10.0.0.1"}, {"type": "IPAddress", "value": "10.0.0.1"}]},
            "spec.addresses[1].value",
            "must be unique",
        ),
        ({"addresses": [{"value": "10.0.0.1"}] * 17}, "spec.addresses", "at most 16"),
    ],
)
def test_what_breaks_a_rule_is_named(spec: dict[str, Any], field: str, rule: str) -> None:
    judged = documents.admit(documents.gateway(TCP, spec=spec))
    assert judged.accepted is None
    assert judged.finding is not None
    broken = {each.field: each.rule for each in judged.finding.violations}
    assert rule in broken[field]


@pytest.mark.parametrize(
    ("expression", "field"),
    [
        ({"key": "a b", "operator": "Exists"}, "key"),
        ({"key": "a", "operator": "Gt", "values": ["1"]}, "operator"),
        ({"key": "a", "operator": "In"}, "values"),
        ({"key": "a", "operator": "Exists", "values": ["1"]}, "values"),
    ],
)
def test_a_selector_that_cannot_be_is_refused(expression: dict[str, Any], field: str) -> None:
    allowed = documents.allowed(origin="Selector", selector={"matchExpressions": [expression]})
    judged = documents.admit(
        documents.gateway(documents.listener("tcp", 80, allowedRoutes=allowed))
    )
    assert judged.accepted is None
    assert f"matchExpressions[0].{field}" in str(judged.finding)


def test_an_address_is_written_in_one_way() -> None:
    made = documents.accepted(documents.gateway(TCP, addresses=("2001:DB8:0::1",)))
    assert made.addresses == (gateway_kind.Address("IPAddress", "2001:db8::1"),)


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_gateway_class_is_read(version: str) -> None:
    raw = documents.gateway_class(parametersRef={"group": "a.b", "kind": "C", "name": "d"})
    made = documents.accepted({**raw, "apiVersion": f"{documents.GROUP}/{version}"})
    assert made == gateway_class_kind.GatewayClass(
        gateway_class_kind.KIND.key("kproxy"), references.CONTROLLER, has_parameters=True
    )


@pytest.mark.parametrize(
    "controller",
    [
        None,
        "",
        "kproxy.io",
        "kproxy.io/",
        "/gateway",
        "A_b/c",
        "kproxy.io/a b",
        "kproxy.io/\u00e9",
        "kproxy.io/" + "a" * 250,
    ],
)
def test_a_gateway_class_needs_a_controller(controller: str | None) -> None:
    judged = documents.admit(documents.gateway_class(controllerName=controller))
    assert judged.accepted is None
    assert "spec.controllerName" in str(judged.finding)
