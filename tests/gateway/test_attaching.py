"""Which routes attach to which listeners, and why others do not."""

from typing import Any

import pytest

from kproxy.gateway import attaching
from kproxy.model import steps
from kproxy.model.kinds.gateway import gateway_kind, namespace_kind, routes
from tests.gateway import documents

WEB = documents.backend("web")
OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
LABELS = {"shop": {"team": "a"}, "infra": {"team": "b"}}


def attached(gateway: documents.Document, *found: documents.Document) -> attaching.Attached:
    made: gateway_kind.Gateway = documents.accepted(gateway)
    return steps.at_once(
        attaching.attach_in_steps(
            made,
            [documents.accepted(each) for each in found],
            lambda name: {**LABELS.get(name, {}), namespace_kind.LABEL_NAME: name},
            has_verdicts=True,
        )
    )


def verdicts(found: attaching.Attached) -> dict[str, list[str]]:
    """By the name of the route: the verdict on each of its references."""
    made: dict[str, list[str]] = {}
    for (_, name, _), verdict in found.verdicts.items():
        made.setdefault(name.name, []).append(verdict.reason.value)
    return made


def winners(found: attaching.Attached) -> dict[str, str]:
    return {listener: route.name.name for listener, route in found.winners.items()}


def gateway(**allowed: Any) -> documents.Document:
    """A Gateway with two listeners of TCP and one of UDP."""
    fields: dict[str, Any] = {"allowedRoutes": documents.allowed(**allowed)} if allowed else {}
    return documents.gateway(
        documents.listener("one", 9301, **fields),
        documents.listener("two", 9302, **fields),
        documents.listener("dns", 9301, "UDP", **fields),
    )


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        ({}, {"one": "split", "two": "split"}),
        ({"sectionName": "two"}, {"two": "split"}),
        ({"port": 9301}, {"one": "split"}),
        ({"port": 9301, "sectionName": "one"}, {"one": "split"}),
    ],
)
def test_a_route_attaches_to_the_listeners_that_it_means(
    parent: dict[str, Any], expected: dict[str, str]
) -> None:
    found = attached(gateway(), documents.route(WEB, parents=[{"name": "edge", **parent}]))
    assert winners(found) == expected
    assert verdicts(found) == {"split": ["Accepted"]}
    assert found.counts == {each: int(each in expected) for each in ("one", "two", "dns")}


@pytest.mark.parametrize(
    ("parent", "verdict"),
    [
        ({"sectionName": "three"}, "NoMatchingParent"),
        ({"port": 80}, "NoMatchingParent"),
        ({"port": 9302, "sectionName": "one"}, "NoMatchingParent"),
        ({"sectionName": "dns"}, "NotAllowedByListeners"),
    ],
)
def test_a_route_that_attaches_nowhere_hears_why(parent: dict[str, Any], verdict: str) -> None:
    found = attached(gateway(), documents.route(WEB, parents=[{"name": "edge", **parent}]))
    assert verdicts(found) == {"split": [verdict]}
    assert winners(found) == {}
    assert set(found.counts.values()) == {0}


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ({}, {"same"}),
        ({"origin": "Same"}, {"same"}),
        ({"origin": "All"}, {"same", "shop", "infra"}),
        ({"origin": "Selector", "selector": {"matchLabels": {"team": "a"}}}, {"shop"}),
        ({"origin": "Selector", "selector": {}}, {"same", "shop", "infra"}),
        (
            {
                "origin": "Selector",
                "selector": {"matchLabels": {"kubernetes.io/metadata.name": "infra"}},
            },
            {"infra"},
        ),
    ],
)
def test_a_listener_says_from_which_namespaces_routes_come(
    allowed: dict[str, Any], expected: set[str]
) -> None:
    parents = [{"name": "edge", "namespace": "default"}]
    found = attached(
        gateway(**allowed),
        documents.route(WEB, name="same", parents=parents),
        documents.route(WEB, name="shop", namespace="shop", parents=parents),
        documents.route(WEB, name="infra", namespace="infra", parents=parents),
    )
    assert {name for name, each in verdicts(found).items() if each == ["Accepted"]} == expected
    assert found.counts["one"] == len(expected)


@pytest.mark.parametrize(
    ("older", "younger"),
    [
        ({"name": "b", "creationTimestamp": OLD}, {"name": "a", "creationTimestamp": NEW}),
        ({"name": "a", "creationTimestamp": OLD}, {"name": "b", "creationTimestamp": OLD}),
        ({"name": "b"}, {"name": "a", "creationTimestamp": OLD}),
        (
            {"name": "z", "namespace": "a", "creationTimestamp": OLD},
            {"name": "a", "namespace": "b", "creationTimestamp": OLD},
        ),
    ],
)
def test_of_several_routes_the_oldest_has_a_listener_then_the_first_by_name(
    older: dict[str, Any], younger: dict[str, Any]
) -> None:
    parents = [{"name": "edge", "namespace": "default"}]
    both = [documents.route(WEB, parents=parents, **each) for each in (older, younger)]
    for found in (both, both[::-1]):
        made = attached(gateway(origin="All"), *found)
        assert winners(made) == {"one": older["name"], "two": older["name"]}
        assert made.counts == {"one": 2, "two": 2, "dns": 0}
        assert set(map(tuple, verdicts(made).values())) == {("Accepted",)}
        rivals = [verdict.rivals for verdict in made.verdicts.values() if verdict.rivals]
        assert rivals == [(made.winners["one"].name,)]


def test_kinds_that_a_listener_names_are_those_that_attach() -> None:
    only_udp = documents.listener("tcp", 80, allowedRoutes=documents.allowed(["UDPRoute"]))
    both = documents.listener(
        "both", 81, allowedRoutes=documents.allowed(["HTTPRoute", "TCPRoute"])
    )
    found = attached(documents.gateway(only_udp, both), documents.route(WEB))
    assert winners(found) == {"both": "split"}
    made: gateway_kind.Gateway = documents.accepted(documents.gateway(only_udp, both))
    kinds = [
        ([each.kind for each in one.kinds], [each.kind for each in one.invalid_kinds])
        for one in attaching.listenings(made)
    ]
    assert kinds == [([], ["UDPRoute"]), (["TCPRoute"], ["HTTPRoute"])]


@pytest.mark.parametrize(
    ("protocols", "reasons"),
    [
        (["TCP", "UDP"], ["Accepted", "Accepted"]),
        (["TCP", "HTTP"], ["ProtocolConflict", "ProtocolConflict"]),
        (["UDP", "TLS"], ["Accepted", "UnsupportedProtocol"]),
        (["HTTP", "HTTPS"], ["UnsupportedProtocol", "UnsupportedProtocol"]),
    ],
)
def test_listeners_that_share_a_port_must_be_distinct(
    protocols: list[str], reasons: list[str]
) -> None:
    listeners = [documents.listener(each.lower(), 443, each) for each in protocols]
    for each in listeners:
        if each["protocol"] in ("TLS", "HTTPS"):
            each["tls"] = {"mode": "Passthrough"}
    made: gateway_kind.Gateway = documents.accepted(documents.gateway(*listeners))
    assert [each.reason.value for each in attaching.listenings(made)] == reasons


def test_references_to_other_gateways_and_kinds_are_not_judged() -> None:
    parents = [
        {"name": "edge"},
        {"name": "other"},
        {"name": "edge", "kind": "Service", "group": ""},
        {"name": "edge", "namespace": "infra"},
    ]
    found = attached(gateway(), documents.route(WEB, parents=parents))
    ((_, _, parent),) = found.verdicts
    assert isinstance(parent, routes.Parent)
    assert parent.name == documents.named("edge")
