"""Row 33 of docs/behaviour.md: endpoints that are meant for this node or its zone.

The cases are those of kube-proxy's `TestCategorizeEndpoints`, as far as they are about hints.
"""

import pytest

from kproxy.model import addresses, forwarding, names
from kproxy.model.kinds import endpoints, services
from tests.reconcile import builders
from tests.reconcile.planning.test_rules import rule_of

CLUSTER, LOCAL = forwarding.Scope
NODE, ZONE = "n1", "z1"


def ready(text: str, zones: str = "", nodes: str = "", node: str = "") -> endpoints.Endpoint:
    """A ready endpoint with hints, which are separated by spaces."""
    hints = {"for_zones": tuple(zones.split()), "for_nodes": tuple(nodes.split())}
    return builders.endpoint(text, node=node, **hints)


def draining(text: str, zones: str = "", nodes: str = "") -> endpoints.Endpoint:
    hints = {"for_zones": tuple(zones.split()), "for_nodes": tuple(nodes.split())}
    return builders.endpoint(text, ready=False, serving=True, terminating=True, **hints)


def unready(text: str) -> endpoints.Endpoint:
    return builders.endpoint(text, ready=False, serving=False)


CASES = [
    pytest.param([ready("1.1.1.1"), ready("1.1.1.2")], "1.1.1.1 1.1.1.2", id="no hints"),
    pytest.param(
        [ready("1.1.1.1", "z1"), ready("1.1.1.2", "z2"), ready("1.1.1.3", "z1 z2")],
        "1.1.1.1 1.1.1.3",
        id="this zone's",
    ),
    pytest.param(
        [ready("1.1.1.1", "z2"), ready("1.1.1.2", "z3")],
        "1.1.1.1 1.1.1.2",
        id="none is for this zone: all",
    ),
    pytest.param(
        [ready("1.1.1.1", "z1"), ready("1.1.1.2")],
        "1.1.1.1 1.1.1.2",
        id="one has no hint: all",
    ),
    pytest.param(
        [ready("1.1.1.1", "z1", "n1"), ready("1.1.1.2", "z1", "n2")],
        "1.1.1.1",
        id="this node's before this zone's",
    ),
    pytest.param(
        [ready("1.1.1.1", "z1", "n2"), ready("1.1.1.2", "z2", "n3")],
        "1.1.1.1",
        id="none is for this node: this zone's",
    ),
    pytest.param(
        [ready("1.1.1.1", "z1", "n1"), ready("1.1.1.2", "z1"), ready("1.1.1.3", "z2", "n2")],
        "1.1.1.1 1.1.1.2",
        id="one has no hint for nodes: this zone's",
    ),
    pytest.param(
        [ready("1.1.1.1", nodes="n1"), ready("1.1.1.2", "z1")],
        "1.1.1.1 1.1.1.2",
        id="some for nodes and some for zones: all",
    ),
    pytest.param(
        [ready("1.1.1.1", "z1"), unready("1.1.1.2"), draining("1.1.1.3")],
        "1.1.1.1",
        id="hints are wanted of ready ones only",
    ),
    pytest.param(
        [ready("1.1.1.1", "z2"), draining("1.1.1.2", "z1")],
        "1.1.1.1",
        id="one that drains is not taken for its hint",
    ),
    pytest.param(
        [draining("1.1.1.1", "z2"), draining("1.1.1.2", "z1", "n1")],
        "1.1.1.1 1.1.1.2",
        id="not in the terminating fallback (row 34)",
    ),
]


@pytest.mark.parametrize(("found", "expected"), CASES)
def test_row_33_the_ready_endpoints_that_hints_keep(
    found: list[endpoints.Endpoint], expected: str
) -> None:
    rule = rule_of(builders.service(), builders.sliced("web", found), node=NODE, zone=ZONE)
    assert rule.backends(CLUSTER) == builders.backends(expected)


@pytest.mark.parametrize(
    ("node", "zone"), [("", ""), ("n9", "z9")], ids=["unknown", "of which no hint is"]
)
def test_row_33_hints_for_other_places_are_ignored(node: str, zone: str) -> None:
    found = [ready("1.1.1.1", "z1", "n1"), ready("1.1.1.2", "z2", "n2")]
    rule = rule_of(builders.service(), builders.sliced("web", found), node=node, zone=zone)
    assert rule.backends(CLUSTER) == builders.backends("1.1.1.1 1.1.1.2")


def test_row_33_local_policies_do_not_look_at_hints() -> None:
    found = [
        ready("1.1.1.1", "z2", "n2", node=NODE),
        ready("1.1.1.2", "z1", "n1", node="n2"),
        ready("1.1.1.3", "z1", "n1", node=NODE),
    ]
    service = builders.service(internal_policy=services.TrafficPolicy.LOCAL)
    rule = rule_of(service, builders.sliced("web", found), node=NODE, zone=ZONE)
    assert rule.pools == builders.pools("1.1.1.2 1.1.1.3", "1.1.1.1 1.1.1.3")


def test_row_33_each_family_has_hints_of_its_own() -> None:
    ipv6 = endpoints.Endpoint(addresses.SocketAddress("fd00::1", 8080))
    port = endpoints.EndpointPort("http", names.Protocol.TCP, (ipv6,))
    found = [ready("1.1.1.1", "z1"), ready("1.1.1.2", "z2")]
    ipv4 = builders.sliced("web", found)
    other = endpoints.EndpointsObject(builders.named("web-6"), ipv4.service, ipv4.kind, (port,))
    rule = rule_of(builders.service(), ipv4, other, node=NODE, zone=ZONE)
    assert rule.backends(CLUSTER) == builders.backends("1.1.1.1")
    assert rule.backends(CLUSTER, addresses.Family.IPV6) == (ipv6.backend,)
