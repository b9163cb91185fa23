"""Which pods serve a Service, and how slices come to say so with few writes.

Behaviour: row 20 of docs/behaviour.md.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.simulator.kinds import subsets
from kproxy.simulator.store.storage import Object

HTTP = subsets.Port("http", 8080, "TCP")
OTHER = subsets.Port("http", 9090, "TCP")


def pod(
    name: str = "a",
    ip: str = "127.244.1.2",
    *,
    ready: bool = True,
    terminating: bool = False,
    ports: Sequence[Object] = ({"name": "web", "containerPort": 8080, "protocol": "TCP"},),
    phase: str = "Running",
) -> Object:
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}"}
    if terminating:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {
        "metadata": metadata,
        "spec": {"nodeName": "node-1", "containers": [{"ports": list(ports)}]},
        "status": {"podIP": ip, "phase": phase, "conditions": conditions},
    }


def service(**spec: Any) -> Object:
    ports = [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]
    return {"metadata": {"name": "web"}, "spec": {"ports": ports, **spec}}


def conditions(made: subsets.Groups) -> list[tuple[bool, bool, bool]]:
    return [
        tuple(endpoint["conditions"][name] for name in ("ready", "serving", "terminating"))
        for group in made.values()
        for endpoint in group
    ]


def test_conditions_of_ready_unready_and_terminating_pods() -> None:
    found = [
        pod(),
        pod("b", ready=False),
        pod("c", terminating=True),
        pod("d", ready=False, terminating=True),
        pod("e", phase="Failed"),
        pod("f", ip=""),
    ]
    assert conditions(subsets.groups(service(), found)) == [
        (True, True, False),
        (False, False, False),
        (False, True, True),
        (False, False, True),
    ]
    (subset,) = subsets.subsets(service(), found)
    assert [each["targetRef"]["name"] for each in subset["addresses"]] == ["a"]
    assert [each["targetRef"]["name"] for each in subset["notReadyAddresses"]] == ["b"]


def test_not_ready_addresses_are_published_on_request() -> None:
    found = [pod(ready=False), pod("b", terminating=True)]
    eager = service(publishNotReadyAddresses=True)
    assert conditions(subsets.groups(eager, found)) == [(True, False, False), (True, True, True)]
    (subset,) = subsets.subsets(eager, found)
    assert len(subset["addresses"]) == 2
    assert "notReadyAddresses" not in subset


def test_a_named_port_that_differs_by_pod_makes_several_subsets_and_groups() -> None:
    other = [{"name": "web", "containerPort": 9090, "protocol": "TCP"}]
    found = [pod(), pod("b", "127.244.1.3", ports=other), pod("c", "127.244.1.4", ports=())]
    assert [subset["ports"][0]["port"] for subset in subsets.subsets(service(), found)] == [
        8080,
        9090,
    ]
    made = subsets.groups(service(), found)
    assert [len(made[ports]) for ports in ((HTTP,), (OTHER,), ())] == [1, 1, 1]


def test_endpoints_are_cut_at_the_limit_ready_ones_first() -> None:
    found = [pod(f"u{n}", f"127.244.2.{n}", ready=False) for n in range(1, 5)]
    found += [pod(f"r{n}", f"127.244.1.{n}") for n in range(1, 4)]
    (subset,) = subsets.truncated(subsets.subsets(service(), found), limit=5)
    assert (len(subset["addresses"]), len(subset["notReadyAddresses"])) == (3, 2)


def endpoint(number: int, *, ready: bool = True) -> Object:
    return {"addresses": [f"10.0.{number // 250}.{number % 250}"], "conditions": {"ready": ready}}


def held(slices: Iterable[Object]) -> dict[str, bool]:
    return {
        each["addresses"][0]: each["conditions"]["ready"]
        for one in slices
        for each in one["endpoints"]
    }


class Cluster:
    """Slices, and the writes made to them."""

    def __init__(self, limit: int, *, keeps_one: bool = False) -> None:
        self.limit = limit
        self.keeps_one = keeps_one
        self.slices: dict[str, Object] = {}
        self.serial = 0

    def reconcile(self, wanted: subsets.Groups) -> int:
        """Carry a plan out; how many writes it took."""
        existing = list(self.slices.values())
        plan = subsets.plan(wanted, existing, self.limit)
        if self.keeps_one:
            plan = subsets.with_placeholder(plan, existing)
        for each in plan.create:
            self.serial += 1
            name = f"s{self.serial}"
            self.slices[name] = {"metadata": {"name": name}, **each}
        for each in plan.update:
            self.slices[each["metadata"]["name"]] = each
        for each in plan.delete:
            del self.slices[each["metadata"]["name"]]
        return len(plan.create) + len(plan.update) + len(plan.delete)


groups = st.dictionaries(
    st.sampled_from([(HTTP,), (OTHER,), ()]),
    st.dictionaries(st.integers(0, 30), st.booleans(), min_size=1).map(
        lambda chosen: [endpoint(number, ready=ready) for number, ready in chosen.items()]
    ),
)


@given(st.lists(groups, max_size=8), st.integers(1, 5))
def test_any_history_ends_in_slices_that_hold_exactly_what_is_wanted(
    history: list[dict[subsets.Ports, list[Object]]], limit: int
) -> None:
    cluster = Cluster(limit)
    for wanted in history:
        cluster.reconcile(wanted)
        for ports in ((HTTP,), (OTHER,), ()):
            named = [subsets.endpoint_port(port) for port in ports]
            mine = [each for each in cluster.slices.values() if each["ports"] == named]
            assert held(mine) == held([{"endpoints": wanted.get(ports, [])}])
            assert sum(len(each["endpoints"]) for each in mine) == len(wanted.get(ports, []))
        assert all(0 < len(each["endpoints"]) <= limit for each in cluster.slices.values())
        assert cluster.reconcile(wanted) == 0


@pytest.mark.parametrize("ports", [(HTTP,), ()])
def test_where_no_slice_would_be_an_empty_one_is_kept(ports: subsets.Ports) -> None:
    cluster = Cluster(100, keeps_one=True)
    empty: Object = {"ports": [], "endpoints": []}
    for _ in range(2):
        assert cluster.reconcile({}) > 0
        (kept,) = cluster.slices.values()
        assert kept.items() >= empty.items()
        assert cluster.reconcile({}) == 0

        cluster.reconcile({ports: [endpoint(1)]})
        assert held(cluster.slices.values()) == {"10.0.0.1": True}
        assert len(cluster.slices) == 1
        assert cluster.reconcile({ports: [endpoint(1)]}) == 0


def test_a_change_of_one_endpoint_writes_one_slice() -> None:
    cluster = Cluster(100)
    every = [endpoint(number) for number in range(250)]
    assert cluster.reconcile({(HTTP,): every}) == 3
    every[120] = endpoint(120, ready=False)
    assert cluster.reconcile({(HTTP,): every}) == 1
    assert cluster.reconcile({(HTTP,): [*every, endpoint(300)]}) == 1
    assert sorted(len(each["endpoints"]) for each in cluster.slices.values()) == [51, 100, 100]


def test_a_slice_that_would_go_becomes_one_that_would_come() -> None:
    """So a change of ports leaves no moment without endpoints, as upstream."""
    old = [
        {"metadata": {"name": name}, "ports": [{"port": 1}], "endpoints": []} for name in ("a", "b")
    ]
    new = {"ports": [{"port": 2}], "endpoints": [{"addresses": ["10.0.0.1"]}]}
    reused = subsets.reusing(subsets.SlicePlan(create=[new], update=[], delete=old))
    assert reused == subsets.SlicePlan(create=[], update=[{**old[0], **new}], delete=[old[1]])


def test_a_pod_has_its_hostname_within_the_subdomain_that_it_asks_for() -> None:
    named, stranger, plain = pod("a"), pod("b"), pod("c")
    named["spec"] |= {"hostname": "web-0", "subdomain": "web"}
    stranger["spec"] |= {"hostname": "db-0", "subdomain": "db"}

    (group,) = subsets.groups(service(), [named, stranger, plain]).values()
    (subset,) = subsets.subsets(service(), [named, stranger, plain])

    assert [each.get("hostname") for each in group] == ["web-0", None, None]
    assert [each.get("hostname") for each in subset["addresses"]] == ["web-0", None, None]
