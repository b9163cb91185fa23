"""Listeners when there are not enough: who gets one is fair, and does not depend on the past."""

import random
from collections import Counter
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from kproxy.model import forwarding, names
from kproxy.model import steps as stepwise
from kproxy.portal import budget, claims

KINDS = forwarding.FrontendKind
OLD, NEW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


class Wishes:
    """A budget, and what is wanted of it."""

    def __init__(self, listeners: int | None = None, services: int | None = None) -> None:
        self.budget = budget.Budget(listeners, services)
        self._numbers: dict[tuple[str, str], int] = {}

    def add(
        self,
        name: str,
        count: int = 1,
        *,
        namespace: str = "default",
        created: str = OLD,
        kind: forwarding.FrontendKind = KINDS.CLUSTER_IP,
        is_free: bool = False,
    ) -> list[forwarding.PortalAddress]:
        """`count` frontends of a Service, on ports 1, 2, 3, ... of an address of its own."""
        number = self._numbers.setdefault((namespace, name), len(self._numbers))
        host = f"127.{1 + list(KINDS).index(kind)}.{number // 250}.{number % 250}"
        added = [forwarding.PortalAddress(host, port) for port in range(1, count + 1)]
        port_name = names.ServicePortName(names.NamespacedName(namespace, name), "")
        for at in added:
            frontend = forwarding.Frontend(kind, at.address, at.port)
            self.budget.want(at, claims.Claim(created, port_name, frontend), is_free=is_free)
        return added

    def settle(self) -> list[forwarding.PortalAddress]:
        """Share out; what has changed."""
        return stepwise.at_once(self.budget.settle())

    def granted(self, of: Iterable[forwarding.PortalAddress]) -> list[int]:
        """The ports that got a listener."""
        return [each.port for each in of if self.budget.granted(each)]


def test_enough_for_all_is_for_all() -> None:
    wishes = Wishes(4)
    one, two = wishes.add("a", 2), wishes.add("b", 2)
    assert wishes.settle() == []
    assert wishes.granted(one) == wishes.granted(two) == [1, 2]
    assert not wishes.budget.shortages()


def test_a_service_with_many_ports_takes_nothing_from_others() -> None:
    wishes = Wishes(100)
    greedy = wishes.add("a", 20_000)
    modest = [wishes.add(f"s{number}", 2) for number in range(20)]
    wishes.settle()
    assert all(wishes.granted(each) == [1, 2] for each in modest)
    assert wishes.granted(greedy) == list(range(1, 61)), "the rest, low ports first"
    assert wishes.budget.shortages() == {budget.Shortage.LISTENERS: 19_940}


def test_a_namespace_with_many_services_takes_nothing_from_others() -> None:
    wishes = Wishes(100)
    many = [wishes.add(f"s{number:03}", 2, namespace="greedy") for number in range(500)]
    modest = [wishes.add(f"s{number}", 2, namespace="modest") for number in range(20)]
    wishes.settle()
    assert all(wishes.granted(each) == [1, 2] for each in modest)
    assert [wishes.granted(each) for each in many] == [[1]] * 60 + [[]] * 440


def test_a_remainder_goes_to_the_older_then_by_name() -> None:
    wishes = Wishes(5)
    a, b = wishes.add("a", 3, created=NEW), wishes.add("b", 3, created=NEW)
    z = wishes.add("z", 3, created=OLD)
    wishes.settle()
    assert [len(wishes.granted(each)) for each in (z, a, b)] == [2, 2, 1]


def test_of_namespaces_too_the_one_with_the_oldest_service_gets_the_remainder() -> None:
    wishes = Wishes(1)
    a = wishes.add("x", namespace="a", created=NEW)
    z = wishes.add("x", namespace="z", created=OLD)
    wishes.settle()
    assert (wishes.granted(a), wishes.granted(z)) == ([], [1])


def test_a_cluster_ip_comes_before_other_addresses_of_its_service() -> None:
    wishes = Wishes(2)
    external = wishes.add("a", 2, kind=KINDS.EXTERNAL_IP)
    node = wishes.add("a", 1, kind=KINDS.NODE_PORT)
    own = wishes.add("a", 1)
    wishes.settle()
    assert [wishes.granted(each) for each in (own, node, external)] == [[1], [1], []]


def test_room_that_is_given_back_serves_those_that_wait() -> None:
    wishes = Wishes(3)
    a, b = wishes.add("a", 2), wishes.add("b", 2)
    assert wishes.settle() == [b[1]]
    assert wishes.budget.shortage(b[1]) is budget.Shortage.LISTENERS
    wishes.budget.drop(a[0])
    assert wishes.settle() == [b[1]]
    assert wishes.granted(b) == [1, 2]
    assert wishes.budget.shortage(b[1]) is None


def test_a_newcomer_gets_its_share_from_those_that_have_most() -> None:
    wishes = Wishes(4)
    a = wishes.add("a", 4)
    wishes.settle()
    z = wishes.add("z", 2)
    assert set(wishes.settle()) == set(a[2:])
    assert (wishes.granted(a), wishes.granted(z)) == ([1, 2], [1, 2])


def test_of_too_many_services_in_a_namespace_the_oldest_are_served() -> None:
    wishes = Wishes(None, 2)
    c, b = wishes.add("c", created=OLD), wishes.add("b", created=NEW)
    a = wishes.add("a", 3, created=NEW)
    other = [wishes.add(name, namespace="other") for name in "xy"]
    wishes.settle()
    assert [wishes.granted(each) for each in (c, a, b)] == [[1], [1, 2, 3], []]
    assert wishes.budget.shortage(b[0]) is budget.Shortage.SERVICES
    assert all(wishes.granted(each) for each in other)
    wishes.budget.drop(c[0])
    assert wishes.settle() == b
    assert wishes.granted(b) == [1]


def test_settling_is_free_while_nothing_has_changed_or_nothing_is_short() -> None:
    wishes = Wishes(1000)
    for number in range(500):
        wishes.add(f"s{number}", 2)
    assert len(list(wishes.budget.settle())) == 0
    wishes.add("one-more")
    wishes.settle()
    assert len(list(wishes.budget.settle())) == 0


def test_no_step_looks_at_more_than_a_few_hundred() -> None:
    wishes = Wishes(1000)
    for number in range(2000):
        wishes.add(f"s{number}")
    wishes.add("greedy", 5000)
    assert len(list(wishes.budget.settle())) > 7000 / 512


some_wishes = st.tuples(
    st.sampled_from("abc"),
    st.integers(0, 6),
    st.sampled_from(["n1", "n2"]),
    st.sampled_from([OLD, NEW]),
)


@given(
    st.integers(0, 12),
    st.one_of(st.none(), st.integers(0, 3)),
    st.lists(some_wishes, max_size=12),
    st.randoms(use_true_random=False),
)
def test_any_history_ends_as_a_fresh_start_does_and_is_fair(
    listeners: int,
    services: int | None,
    history: list[tuple[str, int, str, str]],
    shuffler: random.Random,
) -> None:
    live = Wishes(listeners, services)
    final: dict[tuple[str, str], tuple[list[forwarding.PortalAddress], str]] = {}
    for name, count, namespace, created in history:
        for at in final.pop((namespace, name), ([], ""))[0]:
            live.budget.drop(at)
        added = live.add(name, count, namespace=namespace, created=created)
        final[namespace, name] = added, created
        live.settle()
    fresh = Wishes(listeners, services)
    order = list(live._numbers)
    fresh._numbers = dict(live._numbers)
    shuffler.shuffle(order)
    for namespace, name in order:
        added, created = final[namespace, name]
        fresh.add(name, len(added), namespace=namespace, created=created)
    fresh.settle()
    got = {key: live.granted(added) for key, (added, _) in final.items()}
    assert got == {key: fresh.granted(added) for key, (added, _) in final.items()}
    assert sum(map(len, got.values())) <= listeners
    wanted = {key: len(added) for key, (added, _) in final.items()}
    if services is None:
        assert_fair(got, wanted, listeners)


def assert_fair(
    got: dict[tuple[str, str], list[int]], wanted: dict[tuple[str, str], int], listeners: int
) -> None:
    """Nothing is left over, and no share exceeds by two that of another that wants more."""
    has = {key: len(ports) for key, ports in got.items()}
    assert sum(has.values()) == min(listeners, sum(wanted.values()))
    of_namespace: Counter[str] = Counter()
    lacking = set()
    for (namespace, name), count in has.items():
        of_namespace[namespace] += count
        if count < wanted[namespace, name]:
            lacking.add(namespace)
            rivals = [other for (ns, _), other in has.items() if ns == namespace]
            assert max(rivals) <= count + 1
    for namespace in lacking:
        assert max(of_namespace.values()) <= of_namespace[namespace] + 1


def test_what_shares_a_listener_is_not_counted() -> None:
    wishes = Wishes(2, services=2)
    free = wishes.add("a", 100, is_free=True)
    costly = wishes.add("b", 3)
    wishes.settle()

    assert len(wishes.granted(free)) == 100
    assert wishes.granted(costly) == [1, 2]
    assert wishes.budget.shortages() == {budget.Shortage.LISTENERS: 1}
    wishes.budget.drop(free[0])
    wishes.settle()
    assert len(wishes.granted(free)) == 99


def test_too_many_services_are_too_many_though_they_share_a_listener() -> None:
    wishes = Wishes(services=1)
    first, second = wishes.add("a", 2, is_free=True), wishes.add("b", 3, is_free=True)
    wishes.settle()
    assert (len(wishes.granted(first)), len(wishes.granted(second))) == (2, 0)
    assert wishes.budget.shortages() == {budget.Shortage.SERVICES: 3}

    for address in first:
        wishes.budget.drop(address)

    assert set(wishes.settle()) == set(second)
    assert len(wishes.granted(second)) == 3
