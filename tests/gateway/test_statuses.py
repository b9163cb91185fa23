"""The conditions of classes, Gateways, listeners and routes, by the words of the API."""

from typing import Any

import pytest

from kproxy.gateway import statuses, watcher
from kproxy.gateway.state import Key
from kproxy.model import forwarding, names, steps
from kproxy.reconcile import statuses as frontend_statuses
from tests.gateway import documents, stored

TCP = documents.listener("tcp", 9300)
WEB = documents.backend("web")
STATES = forwarding.FrontendState
EDGE = ("Gateway", documents.named("edge"))
SPLIT = ("TCPRoute", documents.named("split"))


def found(
    *given: documents.Document | list[documents.Document],
    state: forwarding.FrontendState = STATES.BOUND,
    detail: str = "",
    addresses: tuple[str, ...] = ("127.0.0.1",),
) -> dict[Key, statuses.Status]:
    """The statuses of a Store in which every listener is in this state, at these addresses."""

    def frontends(name: names.ServicePortName) -> list[frontend_statuses.FrontendStatus]:
        kind = forwarding.FrontendKind.NODE_PORT
        return [
            frontend_statuses.FrontendStatus(
                forwarding.Frontend(kind, address, 9300),
                forwarding.PortalAddress(address, 9300, name.protocol),
                state,
                detail,
            )
            for address in addresses
        ]

    made = stored.Stored(documents.gateway_class(), stored.service("web", "10.1.0.1"), *given)
    return steps.at_once(watcher.statuses_in_steps(made.planner, frontends))


def shown(conditions: statuses.Conditions) -> dict[str, tuple[bool, str]]:
    return {each.type: (each.is_true, each.reason) for each in conditions}


def gateway(made: dict[Key, statuses.Status]) -> statuses.GatewayStatus:
    status = made[EDGE]
    assert isinstance(status, statuses.GatewayStatus)
    return status


def parents(made: dict[Key, statuses.Status], key: Key = SPLIT) -> list[Any]:
    status = made[key]
    assert isinstance(status, statuses.RouteStatus)
    return [shown(conditions) for _, conditions in status.parents]


def test_what_is_well() -> None:
    made = found(documents.gateway(TCP, generation=4), documents.route(WEB, generation=2))
    edge = gateway(made)
    assert edge.generation == 4
    assert edge.addresses == ("127.0.0.1",)
    accepted, programmed = (True, "Accepted"), (True, "Programmed")
    assert shown(edge.conditions) == {"Accepted": accepted, "Programmed": programmed}
    (listener,) = edge.listeners
    assert (listener.name, listener.attached) == ("tcp", 1)
    assert [each.kind for each in listener.kinds] == ["TCPRoute"]
    assert shown(listener.conditions) == {
        "Accepted": accepted,
        "Programmed": programmed,
        "ResolvedRefs": (True, "ResolvedRefs"),
        "Conflicted": (False, "NoConflicts"),
    }
    assert parents(made) == [{"Accepted": accepted, "ResolvedRefs": (True, "ResolvedRefs")}]
    assert not any(problem for each in made.values() for problem in statuses.problems(each))
    assert ("GatewayClass", documents.named("kproxy")) in made


@pytest.mark.parametrize(
    ("listeners", "expected", "overall"),
    [
        (
            [documents.listener("tcp", 80, "HTTP")],
            {"Accepted": (False, "UnsupportedProtocol"), "Programmed": (False, "Invalid")},
            {"Accepted": (False, "ListenersNotValid"), "Programmed": (False, "Invalid")},
        ),
        (
            [TCP, documents.listener("web", 80, "HTTP")],
            {"Accepted": (True, "Accepted"), "Programmed": (True, "Programmed")},
            {"Accepted": (True, "ListenersNotValid"), "Programmed": (True, "Programmed")},
        ),
        (
            [TCP, documents.listener("web", 9300, "HTTP")],
            {
                "Accepted": (False, "ProtocolConflict"),
                "Conflicted": (True, "ProtocolConflict"),
                "Programmed": (False, "Invalid"),
            },
            {"Accepted": (False, "ListenersNotValid"), "Programmed": (False, "Invalid")},
        ),
        (
            [{**TCP, "allowedRoutes": documents.allowed(["HTTPRoute", "TCPRoute"])}],
            {"Accepted": (True, "Accepted"), "ResolvedRefs": (False, "InvalidRouteKinds")},
            {"Accepted": (True, "Accepted"), "Programmed": (True, "Programmed")},
        ),
    ],
)
def test_what_is_wrong_with_listeners(
    listeners: list[documents.Document],
    expected: dict[str, tuple[bool, str]],
    overall: dict[str, tuple[bool, str]],
) -> None:
    edge = gateway(found(documents.gateway(*listeners)))
    assert expected.items() <= shown(edge.listeners[0].conditions).items()
    assert shown(edge.conditions) == overall


@pytest.mark.parametrize(
    ("state", "listener", "overall", "has_address"),
    [
        (STATES.NO_ENDPOINTS, (True, "Programmed"), (True, "Programmed"), True),
        (STATES.COLLISION, (False, "Invalid"), (False, "Invalid"), False),
        (STATES.REFUSED, (False, "Pending"), (False, "AddressNotUsable"), False),
        (STATES.OVER_BUDGET, (False, "Pending"), (False, "NoResources"), False),
        (STATES.UNAVAILABLE, (False, "Pending"), (False, "AddressNotAssigned"), False),
    ],
)
def test_what_is_not_open_is_not_programmed(
    state: forwarding.FrontendState,
    listener: tuple[bool, str],
    overall: tuple[bool, str],
    has_address: bool,
) -> None:
    edge = gateway(found(documents.gateway(TCP), state=state, detail="why"))
    assert shown(edge.listeners[0].conditions)["Programmed"] == listener
    assert shown(edge.conditions)["Programmed"] == overall
    assert bool(edge.addresses) is has_address
    if state is STATES.COLLISION:
        assert shown(edge.listeners[0].conditions)["Accepted"] == (False, "PortUnavailable")
    if not overall[0] and overall[1] != "Pending":
        assert any("why" in each for each in statuses.problems(edge))


def test_a_gateway_that_is_not_opened_yet_is_pending() -> None:
    edge = gateway(found(documents.gateway(TCP), addresses=()))
    assert shown(edge.conditions)["Programmed"] == (False, "Pending")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"addresses": [{"type": "Hostname", "value": "a.b"}]}, "UnsupportedAddress"),
        ({"infrastructure": {"parametersRef": {"name": "a"}}}, "InvalidParameters"),
    ],
)
def test_a_gateway_that_asks_for_what_there_is_not(spec: dict[str, Any], reason: str) -> None:
    edge = gateway(found(documents.gateway(TCP, spec=spec)))
    expected = {"Accepted": (False, reason), "Programmed": (False, "Invalid")}
    assert shown(edge.conditions) == expected
    assert edge.addresses == ()


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        ({"sectionName": "none"}, (False, "NoMatchingParent")),
        ({"port": 1}, (False, "NoMatchingParent")),
        ({"sectionName": "dns"}, (False, "NotAllowedByListeners")),
        ({"sectionName": "tcp"}, (True, "Accepted")),
    ],
)
def test_why_a_route_is_not_accepted(parent: dict[str, Any], expected: tuple[bool, str]) -> None:
    made = found(
        documents.gateway(TCP, documents.listener("dns", 9300, "UDP")),
        documents.route(WEB, parents=[{"name": "edge", **parent}]),
    )
    (conditions,) = parents(made)
    assert conditions["Accepted"] == expected


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (documents.backend("web", kind="Pod"), "InvalidKind"),
        (documents.backend("web", namespace="other"), "RefNotPermitted"),
        (documents.backend("gone"), "BackendNotFound"),
        (documents.backend("web", 81), "BackendNotFound"),
    ],
)
def test_why_a_backend_is_not_resolved(backend: documents.Document, reason: str) -> None:
    made = found(documents.gateway(TCP), documents.route(WEB, backend))
    (conditions,) = parents(made)
    assert conditions == {"Accepted": (True, "Accepted"), "ResolvedRefs": (False, reason)}
    (problem,) = statuses.problems(made[SPLIT])
    assert problem.startswith(f"at Gateway default/edge: not ResolvedRefs ({reason}): ")


def test_a_route_without_precedence_is_accepted_and_says_so() -> None:
    made = found(documents.gateway(TCP), documents.route(WEB), documents.route(WEB, name="younger"))
    key = ("TCPRoute", documents.named("younger"))
    assert parents(made, key)[0]["Accepted"] == (True, "Accepted")
    status = made[key]
    assert isinstance(status, statuses.RouteStatus)
    assert status.parents[0][1][0].message.endswith("has precedence: default/split")


def test_each_reference_to_a_gateway_of_ours_is_judged() -> None:
    made = found(
        documents.gateway(TCP),
        documents.gateway(documents.listener("a", 1), name="second"),
        documents.gateway(TCP, name="theirs", class_name="other"),
        documents.route(
            WEB,
            parents=[
                *({"name": each} for each in ("edge", "theirs", "gone", "second")),
                {"name": "web", "kind": "Service", "group": ""},
            ],
        ),
        documents.route(WEB, name="stray", parents=[{"name": "theirs"}]),
    )
    status = made[SPLIT]
    assert isinstance(status, statuses.RouteStatus)
    assert [parent.name.name for parent, _ in status.parents] == ["edge", "second"]
    assert ("TCPRoute", documents.named("stray")) not in made
    assert ("Gateway", documents.named("theirs")) not in made


def test_a_class_with_parameters_is_not_accepted_and_nothing_of_it_is_served() -> None:
    made = found(documents.gateway(TCP), documents.gateway_class(parametersRef={"name": "a"}))
    (status,) = made.values()
    assert isinstance(status, statuses.ClassStatus)
    assert shown(status.conditions) == {"Accepted": (False, "InvalidParameters")}
    foreign = documents.gateway_class(controllerName="example.org/other")
    assert found(documents.gateway(TCP), foreign) == {}


def test_changes_are_found() -> None:
    before = found(documents.gateway(TCP), documents.route(WEB))
    after = found(documents.gateway(TCP), state=STATES.COLLISION)
    change = steps.at_once(watcher.changes_in_steps(before, after))
    assert set(change.statuses) == {EDGE}
    assert change.gone == {SPLIT}
    assert not steps.at_once(watcher.changes_in_steps(after, dict(after)))


def test_addresses_are_as_many_as_a_status_holds() -> None:
    many = tuple(f"127.0.1.{number}" for number in range(1, 30))
    assert gateway(found(documents.gateway(TCP), addresses=many)).addresses == many[:16]
