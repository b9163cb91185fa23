"""Statuses merged into what the API server has: no one else's words are lost."""

from typing import Any

from kproxy.gateway import status_text, statuses
from kproxy.model.kinds.gateway import references, routes
from tests.gateway import documents

THEN, NOW = "2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"
ACCEPTED = statuses.Condition("Accepted", is_true=True, reason="Accepted")
TCP_ROUTE = references.GroupKind(references.GROUP, "TCPRoute")
PARENT = routes.Parent(references.GATEWAY, documents.named("edge"), "tcp", 9300)


def condition(kind: str, status: str = "True", **fields: Any) -> dict[str, Any]:
    made = {"type": kind, "status": status, "reason": "Accepted", "message": ""}
    return {**made, "observedGeneration": 1, "lastTransitionTime": THEN, **fields}


def of_class(generation: int = 1, accepted: statuses.Condition = ACCEPTED) -> statuses.ClassStatus:
    return statuses.ClassStatus(documents.named("kproxy"), generation, (accepted,))


def of_gateway(*addresses: str) -> statuses.GatewayStatus:
    listener = statuses.ListenerStatus("tcp", (TCP_ROUTE,), 2, (ACCEPTED,))
    name = documents.named("edge")
    return statuses.GatewayStatus(name, 1, addresses, (ACCEPTED,), (listener,))


def of_route(*parents: routes.Parent) -> statuses.RouteStatus:
    made = tuple((each, (ACCEPTED,)) for each in parents)
    return statuses.RouteStatus("TCPRoute", documents.named("split"), 1, made)


def test_a_condition_that_says_the_same_keeps_its_time() -> None:
    current = {"conditions": [condition("Accepted", observedGeneration=0)]}
    made = status_text.merged(current, of_class(), NOW)
    assert made == {"conditions": [condition("Accepted")]}
    assert status_text.merged(made, of_class(), NOW) == made


def test_a_condition_that_turns_gets_the_time_of_now() -> None:
    pending = condition("Accepted", "Unknown", reason="Pending", message="Waiting for controller")
    made = status_text.merged({"conditions": [pending]}, of_class(), NOW)
    assert made == {"conditions": [condition("Accepted", lastTransitionTime=NOW)]}


def test_conditions_of_others_stay_where_they_are() -> None:
    theirs = condition("example.org/Audited", "False", reason="Late")
    made = status_text.merged({"conditions": [theirs]}, of_class(), NOW)
    assert made["conditions"] == [theirs, condition("Accepted", lastTransitionTime=NOW)]


def test_a_condition_of_a_newer_generation_is_not_replaced() -> None:
    newer = condition("Accepted", "False", observedGeneration=7)
    assert status_text.merged({"conditions": [newer]}, of_class(6), NOW)["conditions"] == [newer]
    made = status_text.merged({"conditions": [newer]}, of_class(7), NOW)
    assert made["conditions"][0]["status"] == "True"


def test_what_cannot_be_read_is_replaced() -> None:
    for odd in ({"conditions": "none"}, {"conditions": ["one", 2]}, {}):
        made = status_text.merged(odd, of_class(), NOW)
        assert made["conditions"] == [condition("Accepted", lastTransitionTime=NOW)]


def test_a_gateway_keeps_the_addresses_of_other_proxies() -> None:
    other = {"type": "IPAddress", "value": "192.0.2.9"}
    ours = {"type": "IPAddress", "value": "192.0.2.1"}
    former = {"type": "IPAddress", "value": "192.0.2.7"}
    current = {"addresses": [other, former], "attachedListenerSets": 3}
    made = status_text.merged(current, of_gateway("192.0.2.1"), NOW, ("192.0.2.7", "192.0.2.1"))
    assert made["addresses"] == [other, ours]
    assert made["attachedListenerSets"] == 3
    assert status_text.merged(made, of_gateway("192.0.2.1"), NOW, ("192.0.2.1",)) == made
    assert status_text.without(made, ("192.0.2.1",))["addresses"] == [other]


def test_a_gateways_listeners_are_those_that_it_has_now() -> None:
    theirs = condition("example.org/Seen")
    current = {
        "listeners": [
            {"name": "gone", "attachedRoutes": 1, "supportedKinds": [], "conditions": []},
            {"name": "tcp", "attachedRoutes": 0, "supportedKinds": [], "conditions": [theirs]},
        ]
    }
    made = status_text.merged(current, of_gateway(), NOW)
    assert made["listeners"] == [
        {
            "name": "tcp",
            "attachedRoutes": 2,
            "supportedKinds": [{"group": references.GROUP, "kind": "TCPRoute"}],
            "conditions": [theirs, condition("Accepted", lastTransitionTime=NOW)],
        }
    ]


def test_a_route_keeps_what_other_controllers_say_and_loses_what_we_said_before() -> None:
    theirs = {
        "parentRef": {"name": "edge"},
        "controllerName": "example.org/other",
        "conditions": [condition("Accepted")],
    }
    former = {
        "parentRef": {"name": "gone"},
        "controllerName": references.CONTROLLER,
        "conditions": [condition("Accepted")],
    }
    made = status_text.merged({"parents": [former, theirs]}, of_route(PARENT), NOW)
    ours = {
        "parentRef": {
            "group": references.GROUP,
            "kind": "Gateway",
            "namespace": "default",
            "name": "edge",
            "sectionName": "tcp",
            "port": 9300,
        },
        "controllerName": references.CONTROLLER,
        "conditions": [condition("Accepted", lastTransitionTime=NOW)],
    }
    assert made == {"parents": [theirs, ours]}
    later = "2026-03-03T00:00:00Z"
    assert status_text.merged(made, of_route(PARENT), later) == made
    assert status_text.merged(made, of_route(), later) == {"parents": [theirs]}


def test_a_route_has_no_more_entries_than_a_status_holds() -> None:
    theirs = [{"controllerName": f"example.org/{number}"} for number in range(40)]
    assert len(status_text.merged({"parents": theirs}, of_route(PARENT), NOW)["parents"]) == 32
