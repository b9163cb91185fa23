"""TCPRoutes, UDPRoutes and ReferenceGrants, as seen through `admission.admit`."""

from typing import Any

import pytest

from kproxy.model import names
from kproxy.model.kinds.gateway import (
    namespace_kind,
    reference_grant_kind,
    references,
    routes,
    tcp_route_kind,
    udp_route_kind,
)
from tests.gateway import documents

WEB = documents.backend("web")


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
@pytest.mark.parametrize(
    ("kind", "protocol"), [("TCPRoute", names.Protocol.TCP), ("UDPRoute", names.Protocol.UDP)]
)
def test_a_route_is_read(version: str, kind: str, protocol: names.Protocol) -> None:
    made = documents.accepted(
        documents.route(
            WEB,
            documents.backend("api", 8080, namespace="other", weight=0),
            kind=kind,
            version=version,
            parents=[{"name": "edge", "sectionName": "tcp", "port": 9300, "namespace": "infra"}],
            generation=2,
        )
    )
    assert isinstance(made, routes.Route)
    assert made.protocol is protocol
    assert made.parents == (
        routes.Parent(references.GATEWAY, documents.named("edge", "infra"), "tcp", 9300),
    )
    assert made.backends == (
        routes.Backend(references.SERVICE, documents.named("web"), 80, 1),
        routes.Backend(references.SERVICE, documents.named("api", "other"), 8080, 0),
    )
    assert made.generation == 2


def test_a_route_concerns_its_gateways_and_its_services() -> None:
    elsewhere = {"group": "", "kind": "Service", "name": "mesh"}
    made = documents.accepted(documents.route(WEB, parents=[{"name": "edge"}, elsewhere]))
    assert tcp_route_kind.KIND.owner(made) == (
        documents.named("gateway/edge"),
        documents.named("web"),
    )
    assert not documents.named("gateway/edge").is_of_service


def backends(*given: Any) -> dict[str, Any]:
    return {"rules": [{"backendRefs": list(given)}]}


def parents(*given: Any) -> dict[str, Any]:
    return {"parentRefs": list(given)}


@pytest.mark.parametrize(
    ("spec", "field", "rule"),
    [
        ({"rules": []}, "spec.rules", "must be one rule"),
        ({"rules": [{"backendRefs": [WEB]}] * 2}, "spec.rules", "must be one rule"),
        (backends(), "spec.rules[0].backendRefs", "1 to 16"),
        (backends(*[WEB] * 17), "spec.rules[0].backendRefs", "1 to 16"),
        (backends({"name": "web"}), "spec.rules[0].backendRefs[0].port", "1 to 65535"),
        (backends({"port": 80}), "spec.rules[0].backendRefs[0].name", "must be a name"),
        (backends({**WEB, "weight": -1}), "spec.rules[0].backendRefs[0].weight", "0 to 1000000"),
        (
            backends({**WEB, "weight": 1_000_001}),
            "spec.rules[0].backendRefs[0].weight",
            "0 to 1000000",
        ),
        (backends({**WEB, "namespace": "A"}), "spec.rules[0].backendRefs[0].namespace", "label"),
        (backends({**WEB, "kind": "a/b"}), "spec.rules[0].backendRefs[0].kind", "a kind"),
        (backends({**WEB, "group": "a/b"}), "spec.rules[0].backendRefs[0].group", "subdomain"),
        (parents(*({"name": f"g{n}"} for n in range(33))), "spec.parentRefs", "at most 32"),
        (parents({"name": "edge"}, {"name": "edge"}), "spec.parentRefs[1]", "distinct"),
        (
            parents({"name": "edge", "sectionName": "a"}, {"name": "edge"}),
            "spec.parentRefs[1]",
            "sectionName and port",
        ),
        (
            parents({"name": "edge", "port": 1}, {"name": "edge", "sectionName": "a"}),
            "spec.parentRefs[1]",
            "sectionName and port",
        ),
        (parents({"name": "edge", "port": 65536}), "spec.parentRefs[0].port", "1 to 65535"),
        (parents({"name": "edge", "sectionName": "A"}), "spec.parentRefs[0].sectionName", "sub"),
    ],
)
def test_what_breaks_a_rule_is_named(spec: dict[str, Any], field: str, rule: str) -> None:
    raw = documents.route(WEB)
    judged = documents.admit({**raw, "spec": {**raw["spec"], **spec}})
    assert judged.accepted is None
    assert judged.finding is not None
    broken = {each.field: each.rule for each in judged.finding.violations}
    assert rule in broken[field]


@pytest.mark.parametrize(
    "parents",
    [
        [{"sectionName": "a"}, {"sectionName": "b"}],
        [{"port": 1}, {"port": 2}],
        [{"sectionName": "a", "port": 1}, {"sectionName": "a", "port": 2}],
        [{"sectionName": "a", "port": 1}, {"sectionName": "b"}],
    ],
)
def test_one_gateway_may_be_referred_to_in_ways_that_either_channel_admits(
    parents: list[dict[str, Any]],
) -> None:
    given = [{"name": "edge", **each} for each in parents]
    assert len(documents.accepted(documents.route(WEB, parents=given)).parents) == 2


def test_one_gateway_may_be_named_by_several_listeners() -> None:
    several = [{"name": "edge", "sectionName": each} for each in ("a", "b")]
    made = documents.accepted(documents.route(WEB, kind="UDPRoute", parents=several))
    assert [each.section for each in made.parents] == ["a", "b"]
    assert udp_route_kind.KIND.owner(made)[0] == documents.named("gateway/edge")


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_grant_permits_what_it_names_and_nothing_else(version: str) -> None:
    raw = documents.grant("backend", "infra", service="web")
    made = documents.accepted({**raw, "apiVersion": f"{documents.GROUP}/{version}"})
    tcp_route = references.GroupKind(references.GROUP, "TCPRoute")
    udp_route = references.GroupKind(references.GROUP, "UDPRoute")

    def permits(kind: references.GroupKind, namespace: str, name: str) -> bool:
        origin = reference_grant_kind.From(kind, namespace)
        return bool(made.permits(origin, reference_grant_kind.To(references.SERVICE, name)))

    assert permits(tcp_route, "infra", "web")
    assert not permits(udp_route, "infra", "web")
    assert not permits(tcp_route, "other", "web")
    assert not permits(tcp_route, "infra", "api")
    every = documents.accepted(documents.grant("backend", "infra"))
    origin = reference_grant_kind.From(tcp_route, "infra")
    assert every.permits(origin, reference_grant_kind.To(references.SERVICE, "api"))


@pytest.mark.parametrize(
    ("field", "entries", "named"),
    [
        ("from", [], "spec.from"),
        ("to", [], "spec.to"),
        ("from", [{"group": "a", "kind": "B"}], "spec.from[0].namespace"),
        ("from", [{"kind": "B", "namespace": "c"}], "spec.from[0].group"),
        ("to", [{"group": ""}], "spec.to[0].kind"),
        ("to", [{"group": "", "kind": "Service", "name": ""}], "spec.to[0].name"),
    ],
)
def test_a_grant_that_cannot_be_is_refused(
    field: str, entries: list[dict[str, str]], named: str
) -> None:
    raw = documents.grant("backend", "infra")
    judged = documents.admit({**raw, "spec": {**raw["spec"], field: entries}})
    assert judged.accepted is None
    assert named in str(judged.finding)


def test_a_namespace_has_its_name_as_a_label_known_or_not() -> None:
    made = documents.accepted(documents.namespace("shop", team="a"))
    assert namespace_kind.labels_of("shop", made) == {
        "team": "a",
        "kubernetes.io/metadata.name": "shop",
    }
    assert namespace_kind.labels_of("shop", None) == {"kubernetes.io/metadata.name": "shop"}
