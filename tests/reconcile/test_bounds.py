"""What one Service may have, what is not served, and why: named, and computed in steps.

Cases: S06 of docs/faults.md.
"""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.model import forwarding, names
from kproxy.model import steps as stepwise
from kproxy.model.kinds import endpoints, services
from kproxy.portal import budget, loopback
from kproxy.reconcile import effects, proxier, statuses
from kproxy.reconcile.planning import rules
from kproxy.sources import store
from tests.reconcile import builders, recording
from tests.reconcile.builders import service, sliced

STATES = forwarding.FrontendState
LOCAL = services.TrafficPolicy.LOCAL
TCP, UDP, SCTP = names.Protocol.TCP, names.Protocol.UDP, names.Protocol.SCTP


def many_ports(count: int) -> dict[str, int]:
    return {f"p{number}": number for number in range(1, count + 1)}


class Stage:
    """A Store, a proxier and a data plane that records."""

    def __init__(
        self,
        *objects: services.Service | endpoints.EndpointsObject,
        room: budget.Budget | None = None,
        options: rules.Options | None = None,
    ) -> None:
        self.store = store.Store()
        self.plane = recording.RecordingPlane()
        self.proxier = proxier.Proxier(
            self.store, self.plane, options or builders.options(), room=room
        )
        self.put(*objects)

    def put(self, *objects: services.Service | endpoints.EndpointsObject) -> None:
        for each in objects:
            self.proxier.mark(self.store.apply(each))
        self.proxier.sync()

    def statuses(self, name: str = "web") -> list[tuple[str, statuses.FrontendStatus]]:
        """Port names and statuses of a Service."""
        return [
            (plan.rule.name.port, status)
            for plan in self.proxier.known()
            for status in self.proxier.frontends(plan.rule.name)
            if plan.rule.name.service.name == name
        ]

    def states(self, name: str = "web") -> list[str]:
        return [status.state for _, status in self.statuses(name)]

    def detail(self, name: str = "web") -> str:
        [(_, status)] = self.statuses(name)
        return status.detail


def bounded(**fields: int) -> rules.Options:
    return builders.options(bounds=rules.Bounds(**fields))


def test_ports_beyond_the_bound_are_named_and_not_opened() -> None:
    ports = many_ports(10)
    stage = Stage(service(ports=ports), sliced("web", ports=ports), options=bounded(ports=4))
    assert stage.states() == ["bound"] * 4 + ["over-budget"] * 6
    assert len(stage.plane.open) == 4
    detail = stage.statuses()[-1][1].detail
    assert "more than 4 ports" in detail
    assert "--max-ports-per-service" in detail


def test_every_port_has_its_cluster_ip_before_one_has_another_address() -> None:
    ports = many_ports(3)
    web = service(ports=ports, external_ips=tuple(f"203.0.113.{n}" for n in range(1, 101)))
    stage = Stage(web, sliced("web", ports=ports), options=bounded(ports=5))
    shown = Counter((s.frontend.kind.value, str(s.state)) for _, s in stage.statuses())
    assert shown == {
        ("cluster-ip", "bound"): 3,
        ("external-ip", "bound"): 2,
        ("external-ip", "over-budget"): 3,
    }
    assert "98 more" not in stage.statuses()[3][1].detail
    assert "this and 97 more addresses" in stage.statuses()[3][1].detail


def test_endpoints_beyond_the_bound_get_no_connections_and_are_counted() -> None:
    ten = " ".join(f"10.1.0.{n}" for n in range(10))
    both = service(ports={"a": 80, "b": 81})
    stage = Stage(both, sliced("web", ten, ports=["a", "b"]), options=bounded(endpoints=5))
    sizes = [len(each.pools[0].backends) for each in stage.plane.backends.values()]
    assert sizes == [3, 2]
    details = [status.detail for _, status in stage.statuses()]
    assert details[0].startswith("7 endpoints get no connections")
    assert "--max-endpoints-per-service" in details[1]


def test_listeners_beyond_the_budget_are_named_and_room_serves_those_that_wait() -> None:
    greedy = many_ports(10)
    stage = Stage(
        service("greedy", "10.0.9.1", greedy),
        sliced("greedy", ports=greedy),
        room=budget.Budget(6),
    )
    assert len(stage.plane.open) == 6
    stage.put(service("web", "10.0.9.2", {"a": 80, "b": 81}), sliced("web", ports=["a", "b"]))
    assert stage.states("web") == ["bound", "bound"]
    assert stage.states("greedy") == ["bound"] * 4 + ["over-budget"] * 6
    assert "--max-listeners" in stage.statuses("greedy")[-1][1].detail
    assert not stage.proxier.has_failures, "there is nothing to retry"
    stage.put(service("greedy", "10.0.9.1", {"p1": 1}))
    assert stage.states("greedy") == ["bound"]


def test_without_endpoints_no_listener_is_taken() -> None:
    stage = Stage(service("a", "10.0.9.1"), service("b", "10.0.9.2"), room=budget.Budget(1))
    stage.put(sliced("b"))
    assert stage.states("a") == ["no-endpoints"]
    assert stage.states("b") == ["bound"]


def test_a_cluster_ip_is_not_lost_to_an_older_services_external_ip() -> None:
    old = service("old", "10.0.9.1", external_ips=("10.0.9.2",), created="2020-01-01T00:00:00Z")
    stage = Stage(old, sliced("old"), sliced("victim", "10.1.0.2"))
    stage.put(service("victim", "10.0.9.2", created="2026-01-01T00:00:00Z"))
    assert stage.states("victim") == ["bound"]
    assert stage.states("old") == ["bound", "collision"]


@pytest.mark.parametrize(
    ("away", "told"),
    [
        pytest.param(
            service(ip="", type=services.ServiceType.EXTERNAL_NAME, ports={}),
            "ExternalName",
            id="ExternalName",
        ),
        pytest.param(service(ip=""), "headless", id="headless"),
        pytest.param(service(proxied_elsewhere=True), "another service proxy", id="foreign"),
        pytest.param(
            service(ports=(services.ServicePort("x", SCTP, 53),)),
            "SCTP is not served: only TCP and UDP are",
            id="SCTP",
        ),
    ],
)
def test_what_is_not_served_is_named(away: services.Service, told: str) -> None:
    stage = Stage(away, sliced("web"))
    assert stage.states() == ["not-served"]
    assert told in stage.detail()
    assert stage.plane.messages == []
    assert stage.proxier.rules() == {}


def test_a_udp_port_beside_a_tcp_port_of_its_number() -> None:
    ports = (services.ServicePort("dns", UDP, 53), services.ServicePort("dns-tcp", TCP, 53))
    stage = Stage(service(ports=ports), sliced("web", ports=["dns-tcp"]))
    assert stage.states() == ["no-endpoints", "bound"]
    served = builders.sliced("web", ports=["dns"], protocol=UDP, suffix="udp")
    stage = Stage(service(ports=ports), sliced("web", ports=["dns-tcp"]), served)
    assert stage.states() == ["bound", "bound"]


@pytest.mark.parametrize(
    ("objects", "told"),
    [
        pytest.param(
            [],
            "there is no EndpointSlice with the label kubernetes.io/service-name=web and no "
            "Endpoints object web in namespace default",
            id="nothing there",
        ),
        pytest.param(
            [sliced("web", ports=["web", ""])],
            'port names differ: the Service\'s port is "http", and EndpointSlice web-1 has '
            'unnamed, "web"',
            id="port names differ",
        ),
        pytest.param(
            [builders.sliced("web", [builders.endpoint("10.1.0.1", ready=False, serving=False)])],
            "it has endpoints, but none of them is ready",
            id="none ready",
        ),
        pytest.param(
            [sliced("web", "")],
            "EndpointSlice web-1 has no endpoint with an address that can be used",
            id="empty",
        ),
        pytest.param(
            [sliced("web", "10.0.9.1:80")], "its only endpoints are its own addresses", id="loop"
        ),
    ],
)
def test_a_service_without_endpoints_says_what_was_looked_for(
    objects: list[endpoints.EndpointsObject], told: str
) -> None:
    stage = Stage(service(), *objects)
    assert stage.states() == ["no-endpoints"]
    assert stage.detail() == f"connections are refused: {told}"


def test_an_unnamed_port_differs_from_a_named_one() -> None:
    """A slice's port "http", while the Service's only port has no name."""
    stage = Stage(service(ports={"": 80}), sliced("web", ports=["http"]))
    assert 'the Service\'s port is unnamed, and EndpointSlice web-1 has "http"' in stage.detail()


def test_the_local_policy_says_which_node_has_no_endpoint() -> None:
    stage = Stage(
        service(internal_policy=LOCAL),
        sliced("web", [builders.endpoint("10.1.0.1", node="n2")]),
        options=builders.options(node="n1"),
    )
    assert "the traffic policy is Local" in stage.detail()
    assert '"n1"' in stage.detail()


def test_the_reason_changes_with_the_objects() -> None:
    stage = Stage(service())
    stage.put(sliced("web", ports=["other"]))
    assert "port names differ" in stage.detail()


def test_a_moved_port_is_noted_in_the_status() -> None:
    stage = Stage(
        service(), sliced("web"), options=rules.Options(portal=loopback.LoopbackPortal(1024))
    )
    assert stage.states() == ["bound"]
    assert stage.detail() == "this user may not bind port 80: clients connect to port 10080"


def test_an_external_ip_that_is_not_listed_is_refused_with_the_flag() -> None:
    stage = Stage(
        service(external_ips=("203.0.113.1",)),
        sliced("web"),
        options=rules.Options(portal=loopback.LoopbackPortal(1)),
    )
    assert stage.states() == ["bound", "refused"]
    assert "--external-ip-cidrs" in stage.statuses()[1][1].detail


def test_thousands_of_failures_are_not_all_retried_each_time() -> None:
    many = 3 * effects.RETRY_BATCH
    stage = Stage()
    for number in range(many):
        host = f"{number // 250}.{number % 250}"
        stage.plane.busy.add(forwarding.PortalAddress(f"127.9.{host}", 80))
        stage.store.apply(service(f"s{number:04}", f"10.9.{host}"))
        stage.store.apply(sliced(f"s{number:04}"))
    stage.proxier.mark_all()
    stage.proxier.sync()
    stage.plane.drain()
    tried: Counter[str] = Counter()
    for _ in range(3):
        stepwise.at_once(stage.proxier.resync_steps())
        attempts = stage.plane.drain()
        assert len(attempts) == effects.RETRY_BATCH
        tried.update(str(message) for message in attempts)
    assert set(tried.values()) == {1}, "each in its turn"
    stage.plane.busy.clear()
    stepwise.at_once(stage.proxier.resync_steps())
    assert len(stage.plane.open) == many, "all at once as soon as one succeeds"


class Reading(store.Store):
    """Counts how often the endpoints of a port are looked at."""

    looks = 0

    def endpoints(self, port: names.ServicePortName) -> tuple[endpoints.Endpoint, ...]:
        self.looks += 1
        return super().endpoints(port)


def test_the_work_for_a_service_grows_with_its_ports_and_not_with_their_square() -> None:
    counts = []
    for size in (500, 1000, 2000):
        ports = many_ports(size)
        kept = Reading()
        syncing = proxier.Proxier(kept, recording.RecordingPlane(), builders.options())
        syncing.mark(kept.apply(service(ports=ports)))
        for part in range(10):
            names_of_part = list(ports)[part * size // 10 : (part + 1) * size // 10]
            syncing.mark(kept.apply(sliced("web", ports=names_of_part, suffix=str(part))))
        counts.append(sum(1 for _ in syncing.sync_steps()))
        assert kept.looks == 0
    assert counts[1] <= 2.1 * counts[0]
    assert counts[2] <= 2.1 * counts[1]
    assert counts[0] >= 500, "with a pause for each port"


@given(st.lists(st.lists(st.integers(1, 30), max_size=20, unique=True), min_size=2, max_size=4))
def test_slices_merged_in_steps_are_slices_merged_at_once(parts: list[list[int]]) -> None:
    groups = [
        endpoints.merged(builders.endpoint(f"10.1.0.{n}", ready=n % 2 == index % 2) for n in part)
        for index, part in enumerate(parts)
    ]
    large = tuple(builders.endpoint(f"10.2.{n // 250}.{n % 250}") for n in range(600))
    for together in (groups, [*groups, endpoints.merged(large)]):
        at_once = endpoints.merged(each for group in together for each in group)
        assert stepwise.at_once(endpoints.merged_in_steps(together)) == at_once
        mixed = [each for group in together for each in group]
        assert stepwise.at_once(endpoints.merged_from_any_in_steps(mixed)) == at_once
