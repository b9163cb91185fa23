"""What is served of Gateways: frontends, endpoints with their weights, and why there are none."""

from typing import Any

import pytest

from kproxy.gateway import planner
from kproxy.model import addresses, forwarding, names, steps
from kproxy.portal import loopback, portal
from kproxy.reconcile.planning import rules
from tests.gateway import documents, stored
from tests.reconcile import builders

TCP = documents.listener("tcp", 9300)
UDP = documents.listener("dns", 9300, "UDP")
WEB = documents.backend("web")
A, B, C = "10.1.0.1", "10.1.0.2", "10.1.0.3"


def planned(
    backends: list[documents.Document],
    *more: documents.Document | list[documents.Document],
    **options: Any,
) -> rules.PortPlan:
    """The plan of the only listener of a Gateway with one route."""
    made = stored.Stored(documents.gateway(TCP), documents.route(*backends), *more)
    return made.plans(**options)["tcp"]


def test_a_listener_without_addresses_is_where_node_ports_are() -> None:
    made = stored.Stored(documents.gateway(TCP, UDP))
    plans = made.plans()
    assert stored.bound(plans.values()) == ["127.0.0.1:9300", "127.0.0.1:9300/UDP"]
    assert stored.why(plans["tcp"]) == "no TCPRoute is attached to this listener"
    assert stored.why(plans["dns"]) == "no UDPRoute is attached to this listener"
    fates = {plan.rule.fate(plan.rule.frontends[0]) for plan in plans.values()}
    assert fates == {forwarding.FrontendState.NO_ENDPOINTS}


def test_a_listener_is_at_every_address_that_its_gateway_asks_for() -> None:
    gateway = documents.gateway(TCP, addresses=("203.0.113.7", "203.0.113.8"))
    plans = stored.Stored(gateway).plans()
    assert stored.bound(plans.values()) == ["127.0.113.7:9300", "127.0.113.8:9300"]


def test_an_address_that_the_operator_does_not_allow_is_refused() -> None:
    made = stored.Stored(documents.gateway(TCP, addresses=("203.0.113.7",)))
    plan = made.plans(portal=loopback.LoopbackPortal(1, portal.Settings()))["tcp"]
    assert plan.places[0].state is forwarding.FrontendState.REFUSED
    assert "--external-ip-cidrs" in plan.places[0].detail


@pytest.mark.parametrize(
    ("weights", "pods", "expected"),
    [
        ((None, None), ([A], [B]), {A: 1, B: 1}),
        ((None, None), ([A, B], [C]), {A: 1, B: 1, C: 2}),
        ((70, 30), ([A], [B]), {A: 7, B: 3}),
        ((90, 10), ([A, B], [C]), {A: 9, B: 9, C: 2}),
        ((1, 0), ([A], [B]), {A: 1}),
        ((1_000_000, 1), ([A], [B]), {A: 1_000_000, B: 1}),
        ((1, 1), ([A, B], [B]), {A: 1, B: 3}),
        ((3, 1), ([A], []), {A: 3, "refused": 1}),
        ((1, 4), ([A, B], []), {A: 1, B: 1, "refused": 8}),
        ((0, 1), ([A], []), {}),
        ((0, 0), ([A], [B]), {}),
        ((1, 1), ([], []), {}),
    ],
)
def test_a_backends_weight_is_shared_by_its_endpoints_and_refused_without(
    weights: tuple[int | None, int | None],
    pods: tuple[list[str], list[str]],
    expected: dict[str, int],
) -> None:
    given = [
        documents.backend(name, **({} if weight is None else {"weight": weight}))
        for name, weight in zip(("one", "two"), weights, strict=True)
    ]
    plan = planned(given, stored.service("one", *pods[0]), stored.service("two", *pods[1]))
    assert stored.split(plan) == expected
    assert bool(expected) is (
        plan.rule.fate(plan.rule.frontends[0]) is forwarding.FrontendState.BOUND
    )


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (documents.backend("gone"), "there is no Service default/gone"),
        (documents.backend("web", 81), "Service default/web has no TCP port 81"),
        (documents.backend("dns"), "Service default/dns has no TCP port 80"),
        (documents.backend("name"), "is of type ExternalName"),
        (documents.backend("web", kind="Pod"), "Pod default/web is no Service"),
        (documents.backend("web", group="a.b"), "Service.a.b default/web is no Service"),
        (documents.backend("empty"), "Service default/empty has no IPv4 endpoint that is ready"),
        (documents.backend("far", namespace="other"), "no ReferenceGrant in namespace other"),
        (documents.backend("web", weight=0), "every backend of TCPRoute default/split has weight"),
    ],
)
def test_the_share_of_a_backend_that_cannot_be_used_is_refused(
    backend: documents.Document, reason: str
) -> None:
    others = (
        stored.service("web", A),
        stored.service("dns", A, protocol="UDP"),
        stored.service("name", type="ExternalName", clusterIP=None, externalName="a.b")[:1],
        stored.service("empty"),
        stored.service("far", B, namespace="other"),
    )
    assert reason in stored.why(planned([backend], *others))
    beside = planned([backend, WEB], *others)
    refused = {} if backend.get("weight") == 0 else {"refused": 1}
    assert stored.split(beside) == {A: 1, **refused}


def test_a_backend_of_another_namespace_counts_while_a_grant_permits_it() -> None:
    far = documents.backend("far", namespace="other")
    service = stored.service("far", B, namespace="other")
    made = stored.Stored(documents.gateway(TCP), documents.route(far), service)
    assert stored.split(made.plans()["tcp"]) == {}
    made.apply(documents.grant("other", "default"))
    assert stored.split(made.plans()["tcp"]) == {B: 1}
    made.store.delete("ReferenceGrant", documents.named("grant", "other"))
    assert stored.split(made.plans()["tcp"]) == {}


def test_endpoints_that_are_not_ready_do_not_count_and_draining_ones_stand_in() -> None:
    _, found = stored.service("web")
    found["endpoints"] = [
        {"addresses": [A], "conditions": {"ready": False}},
        {"addresses": [B], "conditions": {"ready": False, "serving": True, "terminating": True}},
    ]
    plan = planned([WEB], stored.service("web")[:1], found)
    assert stored.split(plan) == {B: 1}
    found["endpoints"].append({"addresses": [C]})
    plan = planned([WEB], stored.service("web")[:1], found)
    assert stored.split(plan) == {C: 1}
    assert [each.backend.address for each in plan.found] == [A, B, C]


def test_each_family_has_the_endpoints_of_its_own() -> None:
    class BothFamilies(loopback.LoopbackPortal):
        """A portal that binds every external address as it is."""

        families = frozenset(addresses.Family)

        def locate(self, frontend: forwarding.Frontend) -> forwarding.PortalAddress:
            return forwarding.PortalAddress(frontend.address, frontend.port, frontend.protocol)

    made = stored.Stored(
        documents.gateway(TCP, addresses=("203.0.113.7", "2001:db8::7")),
        documents.route(documents.backend("four", weight=3), documents.backend("six")),
        stored.service("four", A),
        stored.service("six", "fd00::1"),
    )
    plan = made.plans(portal=BothFamilies(1))["tcp"]
    assert stored.split(plan) == {A: 3, "refused": 1}
    assert stored.split(plan, addresses.Family.IPV6) == {"fd00::1": 1, "refused": 3}


def test_an_endpoint_that_is_the_gateways_own_address_is_left_out() -> None:
    service, found = stored.service("web", "127.0.0.9", A)
    found["ports"][0]["port"] = 9300
    found["endpoints"][0]["addresses"] = ["10.9.9.9"]
    made = stored.Stored(
        documents.gateway(TCP, addresses=("10.9.9.9",)), documents.route(WEB), [service, found]
    )
    plan = made.plans()["tcp"]
    assert stored.split(plan) == {A: 1}
    assert plan.loops == {addresses.SocketAddress("10.9.9.9", 9300)}


@pytest.mark.parametrize(
    ("gateway", "reason"),
    [
        (documents.gateway(documents.listener("tcp", 80, "HTTP")), "protocol HTTP is not served"),
        (documents.gateway(documents.listener("tcp", 80, "a.b/c")), "protocol a.b/c is not served"),
        (
            documents.gateway(TCP, documents.listener("tls", 9300, "HTTPS")),
            "another listener is at port 9300 over TCP too",
        ),
        (
            documents.gateway(TCP, spec={"addresses": [{"type": "Hostname", "value": "a.b"}]}),
            "address of type Hostname",
        ),
        (
            documents.gateway(TCP, spec={"infrastructure": {"parametersRef": {"name": "a"}}}),
            "infrastructure.parametersRef",
        ),
    ],
)
def test_what_cannot_be_served_is_said(gateway: documents.Document, reason: str) -> None:
    plan = stored.Stored(gateway).plans()["tcp"]
    assert not plan.is_served
    assert reason in stored.why(plan)


@pytest.mark.parametrize(
    ("gateway_class", "is_served"),
    [
        (None, True),
        (documents.gateway_class(), True),
        (documents.gateway_class("other"), True),
        (documents.gateway_class(controllerName="example.org/other"), False),
        (documents.gateway_class(parametersRef={"name": "a"}), False),
    ],
)
def test_only_gateways_of_the_class_are_served(
    gateway_class: documents.Document | None, is_served: bool
) -> None:
    made = stored.Stored(
        documents.gateway(TCP), documents.gateway(TCP, name="theirs", class_name="other")
    )
    made.apply(*([gateway_class] if gateway_class else []))
    assert bool(made.plans()) is is_served
    assert made.plans("theirs") == {}


def test_only_gateways_of_the_namespaces_asked_for_are_served() -> None:
    made = stored.Stored(documents.gateway(TCP), documents.gateway(TCP, namespace="other"))
    asked = planner.Gateways(made.store, "kproxy", frozenset({"other"}))
    assert [str(each.name) for each in asked.served()] == ["other/edge"]
    work = steps.at_once(asked.read(documents.named("gateway/edge"), builders.options()))
    assert work.objects == ()


def test_what_depends_on_a_service_is_found() -> None:
    made = stored.Stored(
        documents.gateway(TCP),
        documents.route(WEB),
        documents.route(documents.backend("dns"), kind="UDPRoute", name="dns"),
    )
    edge = documents.named("gateway/edge")

    def concerned(*given: str) -> set[names.NamespacedName]:
        return steps.at_once(made.planner.concerned(map(documents.named, given)))

    assert concerned("web") == {edge}
    assert concerned("dns") == {edge}
    assert concerned("other", "gateway/edge") == set()
    assert set(made.planner.everything()) == {edge}


def test_a_change_of_a_route_concerns_its_gateways_before_and_after() -> None:
    made = stored.Stored(documents.route(WEB))
    moved = documents.route(documents.backend("api"), parents=[{"name": "other"}])
    expected = {documents.named(each) for each in ("gateway/edge", "gateway/other", "web", "api")}
    assert made.apply(moved) == expected


def test_the_same_objects_are_the_same_work() -> None:
    made = stored.Stored(documents.gateway(TCP), documents.route(WEB), stored.service("web", A))
    key = documents.named("gateway/edge")

    def objects() -> list[int]:
        asked = steps.at_once(made.planner.read(key, builders.options()))
        return list(map(id, asked.objects))

    before = objects()
    assert objects() == before
    made.apply(documents.route(WEB, name="younger", creationTimestamp="2026-01-01T00:00:00Z"))
    assert objects() == before
    made.apply(stored.service("web", A, B))
    assert objects() != before


def test_the_frontends_and_endpoints_of_a_gateway_are_bounded() -> None:
    made = stored.Stored(
        documents.gateway(*(documents.listener(f"l{n}", 9300 + n) for n in range(4))),
        documents.route(WEB, documents.backend("api")),
        stored.service("web", A, B, C),
        stored.service("api", "10.1.0.4"),
    )
    plans = made.plans(bounds=rules.Bounds(ports=3, endpoints=8))
    states = [plan.places[0].state for plan in plans.values()]
    assert states == [None, None, None, forwarding.FrontendState.OVER_BUDGET]
    assert "--max-ports-per-service" in stored.why(plans["l3"])
    assert stored.split(plans["l0"]) == {A: 1, "10.1.0.4": 1}
    assert plans["l0"].unused == 2


def test_steps_are_short_however_many_routes_want_a_listener() -> None:
    made = stored.Stored(documents.gateway(TCP), stored.service("web", A))
    listeners = [documents.listener(f"l{number}", 80 + number) for number in range(63)]
    made.apply(documents.gateway(TCP, *listeners))
    for number in range(500):
        made.apply(documents.route(WEB, name=f"r{number:03}"))
    asked = made.planner.read(documents.named("gateway/edge"), builders.options())
    assert sum(1 for _ in asked) >= 500 // 8
    assert stored.split(made.plans()["tcp"]) == {A: 1}


def test_listeners_are_named_like_service_ports() -> None:
    made = stored.Stored(documents.gateway(TCP))
    assert str(made.plans()["tcp"].rule.name) == "default/gateway/edge:tcp"
    assert made.plans()["tcp"].rule.name.protocol is names.Protocol.TCP
